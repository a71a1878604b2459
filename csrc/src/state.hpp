/// What the scheduler knows between calls.
#pragma once

#include <limits>
#include <mutex>
#include <vector>

#include "gfnet/cover.hpp"
#include "gfnet/scheduler.hpp"
#include "queue.hpp"

namespace gfnet {

inline constexpr LaunchId no_launch{-1};

/// What is known about the image in a slot.
struct Image {
  std::int64_t order = 0;          ///< of admission
  Seconds deadline{};
  std::int64_t named = 0;          ///< the last record that named it
  LaunchId launch = no_launch;     ///< in flight in one that names its rows
  std::int32_t steps = 0;          ///< taken; a counted launch tells it only of those that leave
  std::int32_t limit = unlimited;  ///< rows its next launch may have, after a failure; not in throughput mode
  bool answered = false;           ///< has departed
  bool collected = false;          ///< its departure has been handed out
};

struct Launch {
  LaunchId id = no_launch;  ///< no_launch: this record is not in use
  Stage stage = Stage::glance;
  std::int32_t bucket = 0;
  Seconds cost{};
  Run rows;  ///< how many; in throughput mode also since when the first was queued
  std::vector<Slot> slots;
  std::vector<std::int32_t> steps;
};

/// A stage's queue and how its batches are cut.
struct Line {
  Line(std::span<const Bucket> buckets, const Bucket& full_bucket, Seconds quickest_launch, const Options& options)
      : heap(options.mode == Mode::throughput ? 0 : options.capacity),
        fifo(options.mode == Mode::throughput ? options.capacity : 0),
        full(full_bucket),
        quickest(quickest_launch),
        cover(buckets, options.capacity,
              options.mode == Mode::latency ? Objective::mean_wait : Objective::device_time),
        launches(buckets.size()) {}

  std::int32_t size() const { return heap.size() + fifo.size(); }

  Heap heap;    ///< latency and deadline mode
  Fifo fifo;    ///< throughput mode
  Bucket full;  ///< best time per row
  Seconds quickest;
  Cover cover;
  std::vector<std::int64_t> launches;  ///< by bucket
};

/// A verdict, and for Verdict::launch which stage in which bucket.
struct Choice {
  Verdict verdict = Verdict::starved;
  Stage stage = Stage::glance;
  Bucket bucket{};
  Seconds wake_at{std::numeric_limits<double>::infinity()};
};

struct Scheduler::State {
  State(const Options& options, const CostTable& costs);

  Line& line(Stage stage) { return stage == Stage::glance ? glance : focus; }
  const Line& line(Stage stage) const { return stage == Stage::glance ? glance : focus; }
  Image& image(Slot slot) { return images[static_cast<std::size_t>(index(slot))]; }
  const Image& image(Slot slot) const { return images[static_cast<std::size_t>(index(slot))]; }
  /// The first of a queue, in latency and deadline mode.
  const Image& head(Stage stage) const { return image(line(stage).heap.head()); }
  std::int32_t queued(Stage stage) const { return line(stage).size(); }
  bool empty(Stage stage) const { return queued(stage) == 0; }
  bool merging() const { return options.mode == Mode::throughput; }
  /// Whether a launch says how many rows it takes, and not which.
  bool counted(Stage stage) const { return merging() && stage == Stage::focus; }
  /// When a launch that is issued now would start.
  Seconds start(Seconds now) const { return std::max(now, busy_until); }

  void enqueue(Slot slot);
  void depart(Slot slot, Reason reason);
  void release(Slot slot);
  void expire(Seconds now);
  Launch& find(LaunchId id);
  std::span<const Slot> slots(const Launch& launch) const {
    return std::span(launch.slots).first(counted(launch.stage) ? 0 : static_cast<std::size_t>(launch.rows.count));
  }
  void check(const Launch& launch, std::span<const Departure> left);
  void land(Launch& launch, Seconds now);
  const Launch& launch(const Choice& choice, Seconds now);
  void name_rows(Launch& record);

  // The policies (policy.cpp) read the state and change nothing.
  Choice choose(Seconds now) const;
  Choice throughput(Seconds now) const;
  Choice latency() const;
  Choice by_deadline(Seconds now) const;
  Choice nothing() const;
  Choice full(Stage stage) const { return {Verdict::launch, stage, line(stage).full}; }
  Choice cut(Stage stage) const { return {Verdict::launch, stage, line(stage).cover.first(queued(stage))}; }
  /// Rows that the head's next launch may have.
  std::int32_t limit(Stage stage) const { return merging() ? line(stage).fifo.head().limit : head(stage).limit; }
  /// The bucket for a head that was in a failed launch.
  const Bucket& retry_bucket(Stage stage) const { return costs.smallest_holding(stage, limit(stage)); }
  /// The least time the head's next step takes.
  Seconds head_cost(Stage stage) const {
    return limit(stage) == unlimited ? line(stage).quickest : retry_bucket(stage).cost;
  }

  Options options;
  CostTable costs;
  Line glance;
  Line focus;
  std::vector<Image> images;
  std::vector<Slot> free;
  Ring<Slot> waiting;          ///< throughput mode: who the rows of the glance's queue are
  std::vector<Launch> launches;
  Ring<Departure> departures;
  std::int32_t flying = 0;     ///< launches in flight
  std::int32_t flying_rows = 0;
  std::int64_t planned = 0;    ///< launches so far
  std::int64_t records = 0;    ///< given to complete() so far
  Seconds busy_until{-std::numeric_limits<double>::infinity()};  ///< the end of what is in flight, by the cost table
  bool closed = false;
  std::vector<std::int32_t> places;  ///< scratch of name_rows(): by step, where its next row goes
  std::vector<Slot> rows;            ///< scratch of launch(): in the queue's order
  Statistics counts;
  mutable std::mutex mutex;
};

}  // namespace gfnet

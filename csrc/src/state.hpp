/// What the scheduler knows between calls.
#pragma once

#include <limits>
#include <mutex>
#include <vector>

#include "gfnet/cover.hpp"
#include "gfnet/scheduler.hpp"
#include "queue.hpp"

namespace gfnet {

inline constexpr std::int32_t unlimited = std::numeric_limits<std::int32_t>::max();

/// What is known about the image in a slot.
struct Image {
  double key = 0;                  ///< its place in the queue; kept when a launch fails
  std::int64_t order = 0;          ///< of admission
  Seconds deadline{};
  Seconds queued_at{};
  std::int64_t queued_launch = 0;  ///< how many launches there had been
  std::int32_t steps = 0;          ///< taken
  std::int32_t limit = unlimited;  ///< rows its next launch may have, after a failure
  bool in_flight = false;
  bool answered = false;           ///< has departed
  bool collected = false;          ///< its departure has been handed out
};

struct Launch {
  LaunchId id{-1};  ///< -1: this record is not in use
  Stage stage = Stage::glance;
  std::int32_t count = 0;
  std::int32_t bucket = 0;
  Seconds cost{};
  std::vector<Slot> slots;
  std::vector<std::int32_t> steps;
};

/// A stage's queue and how its batches are cut.
struct Line {
  Line(std::span<const Bucket> buckets, const Bucket& full_bucket, Seconds quickest_launch, const Options& options)
      : queue(options.capacity),
        full(full_bucket),
        quickest(quickest_launch),
        cover(buckets, options.capacity,
              options.mode == Mode::latency ? Objective::mean_wait : Objective::device_time),
        launches(buckets.size()) {}

  Queue queue;
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
  const Image& head(Stage stage) const { return image(line(stage).queue.head()); }
  bool empty(Stage stage) const { return line(stage).queue.empty(); }
  std::int32_t queued(Stage stage) const { return line(stage).queue.size(); }
  /// When a launch that is issued now would start.
  Seconds start(Seconds now) const { return std::max(now, busy_until); }

  void enqueue(Slot slot, Seconds now);
  void requeue(Slot slot);
  void depart(Slot slot, Reason reason);
  void release(Slot slot);
  void expire(Seconds now);
  Launch& find(LaunchId id);
  void land(Launch& launch, Seconds now);
  const Launch& launch(const Choice& choice, Seconds now);

  // The policies (policy.cpp) read the state and change nothing.
  Choice choose(Seconds now) const;
  Choice throughput(Seconds now) const;
  Choice latency() const;
  Choice by_deadline(Seconds now) const;
  Choice nothing() const;
  Choice full(Stage stage) const { return {Verdict::launch, stage, line(stage).full}; }
  Choice cut(Stage stage) const { return {Verdict::launch, stage, line(stage).cover.first(queued(stage))}; }
  /// The bucket for a head that was in a failed launch.
  const Bucket& retry_bucket(Stage stage) const { return costs.smallest_holding(stage, head(stage).limit); }
  /// The least time the head's next step takes.
  Seconds head_cost(Stage stage) const {
    return head(stage).limit == unlimited ? line(stage).quickest : retry_bucket(stage).cost;
  }

  Options options;
  CostTable costs;
  Line glance;
  Line focus;
  std::vector<Image> images;
  std::vector<Slot> free;
  std::vector<Launch> launches;
  std::vector<Departure> departures;  ///< a ring of `capacity` places
  std::size_t first_departure = 0;
  std::int32_t departed = 0;   ///< in the ring
  std::int32_t flying = 0;     ///< launches in flight
  std::int32_t flying_rows = 0;
  std::int32_t max_steps;
  std::int64_t planned = 0;    ///< launches so far
  std::int64_t sequence = 0;   ///< of queueing
  Seconds busy_until{-std::numeric_limits<double>::infinity()};  ///< the end of what is in flight, by the cost table
  bool closed = false;
  std::vector<std::int32_t> places;  ///< scratch of launch(): by step, where its next row goes
  std::vector<Slot> rows;            ///< scratch of launch(): in the queue's order
  Statistics counts;
  mutable std::mutex mutex;
};

}  // namespace gfnet

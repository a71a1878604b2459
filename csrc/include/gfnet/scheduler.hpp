/// The scheduler: which images run next, in which batch. It plans; it does not compute.
///
///   scheduler.admit(slots, now);                       images get slots of the arena, first come, first served
///   while ((plan = scheduler.plan(now)).verdict == Verdict::launch) run(plan);
///   scheduler.complete(plan.id, left, now);            an outcome came back: these leave, the others queue for more
///   scheduler.collect(departures);                     who left, after how many steps; their slots are free again
///
/// All focus steps share one encoder, so one focus launch mixes images at different steps and from different
/// arrivals. Several launches may be in flight: what is queued is what is *known* to need a step, a lower bound
/// that lags behind the device, and a plan needs no more than that.
///
/// In throughput mode a focus launch is *counted*: the plan says how many rows it takes, and the device takes them from
/// the head of a ring of its own, to whose tail it appends those that stay. The other launches name their rows.
///
/// An image is in one place at a time:
///
///   free -> waiting -> in flight (glance) -> ready -> in flight (focus) -> ready ... -> departed -> free
///
/// All memory is taken in the constructor, in proportion to the capacity and to the launches in flight; only
/// statistics() allocates later. All methods may be called from several threads; none waits for longer than another
/// call takes.
#pragma once

#include <cstddef>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "gfnet/cost_table.hpp"
#include "gfnet/limits.hpp"

namespace gfnet {

struct Options {
  std::int32_t capacity = 1;    ///< slots, up to limits::rows
  std::int32_t steps = 1;       ///< T, the glance included, up to limits::steps
  Mode mode = Mode::throughput;
  std::int32_t in_flight = 2;   ///< launches that may be in flight at once, up to limits::in_flight
  std::int32_t patience = 64;   ///< throughput: launches that may pass over a queued image before it goes first
  Seconds linger{0.005};        ///< throughput: how long an idle device waits for a batch to fill before it pads
};

enum class Verdict : std::uint8_t {
  launch,   ///< run the plan's slots now
  wait,     ///< nothing to launch until an outcome comes back
  starved,  ///< nothing to launch until images are admitted, the scheduler is closed, or `wake_at`
  done,     ///< closed, and every image has departed
};

/// What to do next. For Verdict::launch the spans have the bucket's size: `count` rows in ascending order of step,
/// then padding (no_slot, step 0). They stay valid until complete() or fail(). Those of a counted launch are empty.
///
/// Example: bucket 4, count 3: slots = [7, 0, 2, -1], steps = [2, 2, 3, 0].
struct Plan {
  Verdict verdict = Verdict::starved;
  LaunchId id{-1};
  Stage stage = Stage::glance;
  std::int32_t bucket = 0;
  std::int32_t count = 0;
  std::span<const Slot> slots;
  std::span<const std::int32_t> steps;  ///< the step each row is about to take, 1 .. T
  /// Not Verdict::launch: when to ask again although nothing has happened (a deadline, or the end of a linger).
  Seconds wake_at{std::numeric_limits<double>::infinity()};
};

enum class Reason : std::int32_t {
  exited,     ///< its outcome said so
  last_step,  ///< it took the last step it may take
  deadline,   ///< its time was up, or no further step could end in time
  error,      ///< a launch of this image alone failed
  cancelled,  ///< nobody wants its answer any more
};
inline constexpr std::int32_t reasons = 5;

/// An image that leaves, or has left. Its answer is the prediction of step `steps`; 0: it left without one.
struct Departure {
  Slot slot;
  std::int32_t steps;
  Reason reason;
};

struct Statistics {
  std::int64_t admitted = 0;
  std::int64_t passes = 0;        ///< rows of completed launches that were images
  std::int64_t padded_rows = 0;   ///< rows of completed launches that were padding
  std::int64_t launches = 0;      ///< planned, failed ones included
  std::int64_t failures = 0;      ///< launches that fail() was told of
  std::int64_t waits = 0;         ///< plans that found free launch places and queued images, but had to wait
  std::int64_t departed[reasons] = {};  ///< by Reason
  std::vector<std::int64_t> glance_launches;  ///< planned, by bucket, smallest bucket first
  std::vector<std::int64_t> focus_launches;

  /// Share of the rows run that were images.
  double fill() const {
    const std::int64_t rows = passes + padded_rows;
    return rows == 0 ? 1.0 : static_cast<double>(passes) / static_cast<double>(rows);
  }
};

/// Where the images are. The five places add up to the capacity.
struct Occupancy {
  std::int32_t free;
  std::int32_t waiting;    ///< for the glance
  std::int32_t ready;      ///< for a focus step
  std::int32_t in_flight;
  std::int32_t departed;   ///< not collected yet
};

/// The least capacity with which a throughput scheduler never waits for an outcome while the stream lasts: the
/// launches in flight but one, plus a focus batch that is one row short, plus a glance batch. Throws
/// std::invalid_argument for a number of launches out of range, and where the capacity would be above limits::rows.
std::int32_t capacity_without_waits(const CostTable& costs, std::int32_t in_flight);

/// Every method that takes a time throws std::invalid_argument for one that is not finite. A call that throws has
/// changed nothing. A clock that runs backwards makes for late launches and lost deadlines; no image is lost by it.
class Scheduler {
 public:
  /// Throws std::invalid_argument for options out of range, before it takes any memory.
  Scheduler(const Options& options, const CostTable& costs);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Admits as many of `slots.size()` images as there is room for, writes their slots to the front of `slots` and
  /// returns how many: 0 is a refusal. Mode::deadline needs one finite deadline per image asked for; the other
  /// modes take none. Throws std::logic_error after close().
  std::size_t admit(std::span<Slot> slots, Seconds now, std::span<const Seconds> deadlines = {});

  /// Chooses the next launch, and counts it as in flight. Mode::deadline calls expire() first.
  Plan plan(Seconds now);

  /// A launch has ended: `left` is who has left with it, in any order; all its other rows have taken their step and
  /// stay. Launches may complete in any order, counted ones in that in which the device settled them. An image that
  /// has been answered meanwhile is passed over. Throws std::invalid_argument for an id that is not in flight; for more
  /// images than the launch has rows, a slot that is not of the launch (counted: an image that has not taken the
  /// glance, or has left), one that is named twice, a reason that there is not; for steps other than the image's or one
  /// more (counted: 0 .. T); and where a row has taken step T and stays.
  void complete(LaunchId id, std::span<const Departure> left, Seconds now);

  /// A launch of two rows or more has failed; no row of it has taken its step. Its images go back to the head of their
  /// queue, to be retried in launches of at most half as many rows, in the smallest buckets that hold them. Throws
  /// std::invalid_argument for an id that is not in flight, and for a launch of one row: that one is completed, and its
  /// image leaves with Reason::error. So one bad image among n costs its n - 1 neighbours at most log2(n) retries each.
  void fail(LaunchId id, Seconds now);

  /// Mode::deadline: images whose deadline has come, or that cannot take another step in time, depart with their
  /// newest prediction. An image in flight departs too; its slot stays taken until its launch ends.
  void expire(Seconds now);

  /// Writes up to `departures.size()` images that have left, in the order of leaving, frees their slots, and
  /// returns how many.
  std::size_t collect(std::span<Departure> departures);

  void close();  ///< Nothing more will be admitted: fill no batch that cannot fill, pad instead.
  void open();   ///< Admit again.

  std::int32_t capacity() const;
  Occupancy occupancy() const;
  Statistics statistics() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace gfnet

#include "gfnet/scheduler.hpp"

#include <stdexcept>
#include <utility>

#include "checks.hpp"
#include "state.hpp"

namespace gfnet {
namespace {

std::int32_t widest(const CostTable& costs) {
  return std::max(costs.buckets(Stage::glance).back().size, costs.buckets(Stage::focus).back().size);
}

Line make_line(Stage stage, const Options& options, const CostTable& costs) {
  return Line(costs.buckets(stage), costs.best_rate(stage, options.capacity), costs.quickest(stage), options);
}

}  // namespace

const Options& checked(const Options& options, const CostTable& costs) {
  check_range("capacity", options.capacity, 1, limits::rows);
  check_range("steps", options.steps, 1, limits::steps);
  check_range("mode", static_cast<int>(options.mode), 0, static_cast<int>(Mode::deadline));
  check_range("in_flight", options.in_flight, 1, limits::in_flight);
  check_range("patience", options.patience, 1, unlimited);
  check_range("linger", options.linger, Seconds{std::numeric_limits<double>::infinity()});
  check_range("in_flight x the largest bucket", rows_in_flight(options, costs), std::int64_t{1}, limits::rows_in_flight);
  return options;
}

std::int64_t rows_in_flight(const Options& options, const CostTable& costs) {
  return std::int64_t{std::min(options.in_flight, options.capacity)} * widest(costs);
}

std::int32_t capacity_without_waits(const CostTable& costs, std::int32_t in_flight) {
  check_range("in_flight", in_flight, 1, limits::in_flight);
  const std::int32_t glance = costs.best_rate(Stage::glance, unlimited).size;
  const std::int32_t focus = costs.best_rate(Stage::focus, unlimited).size;
  const std::int32_t capacity = (in_flight - 1) * std::max(glance, focus) + (focus - 1) + glance;
  check_range("capacity without waits", capacity, 1, limits::rows);
  return capacity;
}

// State: who is where.

Scheduler::State::State(const Options& given, const CostTable& cost_table)
    : options(checked(given, cost_table)),
      costs(cost_table),
      glance(make_line(Stage::glance, options, costs)),
      focus(make_line(Stage::focus, options, costs)),
      waiting(merging() ? options.capacity : 0),
      departures(options.capacity) {
  const auto capacity = static_cast<std::size_t>(options.capacity);
  images.resize(capacity);
  free.reserve(capacity);
  for (std::int32_t slot = options.capacity; slot-- > 0;) free.push_back(Slot{slot});
  launches.resize(static_cast<std::size_t>(std::min(options.in_flight, options.capacity)));
  for (Launch& launch : launches) {
    launch.slots.resize(static_cast<std::size_t>(widest(costs)));
    launch.steps.resize(static_cast<std::size_t>(widest(costs)));
  }
  rows.reserve(static_cast<std::size_t>(widest(costs)));
  places.resize(static_cast<std::size_t>(options.steps) + 1);
}

void Scheduler::State::enqueue(Slot slot) {
  const Image& entering = image(slot);
  const double key =
      options.mode == Mode::deadline ? entering.deadline.count() : static_cast<double>(entering.order);
  line(entering.steps == 0 ? Stage::glance : Stage::focus).heap.push(key, entering.order, slot);
}

void Scheduler::State::depart(Slot slot, Reason reason) {
  Image& leaving = image(slot);
  leaving.answered = true;
  departures.push_back({slot, leaving.steps, reason});
  ++counts.departed[static_cast<std::size_t>(reason)];
}

void Scheduler::State::release(Slot slot) {
  image(slot) = Image{};
  free.push_back(slot);
}

void Scheduler::State::expire(Seconds now) {
  if (options.mode != Mode::deadline) return;
  for (const Stage stage : {Stage::glance, Stage::focus}) {
    // Both conditions: beside a large clock value a small cost is lost in rounding.
    while (!empty(stage) && (head(stage).deadline <= now || start(now) + head_cost(stage) > head(stage).deadline)) {
      depart(line(stage).heap.pop(), Reason::deadline);
    }
  }
  for (const Launch& launch : launches) {
    if (launch.id == no_launch) continue;
    for (const Slot slot : slots(launch)) {
      if (!image(slot).answered && image(slot).deadline <= now) depart(slot, Reason::deadline);
    }
  }
}

Launch& Scheduler::State::find(LaunchId id) {
  for (Launch& launch : launches) {
    if (launch.id == id && id != no_launch) return launch;
  }
  refuse("id", "a launch in flight", text(static_cast<std::int64_t>(id)) +
         ": it was never planned, or has been completed or failed already");
}

void Scheduler::State::check(const Launch& launch, std::span<const Departure> left) {
  if (left.size() > static_cast<std::size_t>(launch.rows.count)) {
    refuse("left", "at most the " + text(launch.rows.count) + " rows of the launch", text(left.size()));
  }
  const bool by_count = counted(launch.stage);
  ++records;
  for (const auto [slot, steps, reason] : left) {
    if (index(slot) < 0 || index(slot) >= options.capacity) {
      refuse("left", "slots 0 to " + text(options.capacity - 1), text(index(slot)));
    }
    Image& leaving = image(slot);
    if (by_count && (leaving.steps == 0 || leaving.answered)) {
      refuse("left", "images that have taken the glance and not left", "slot " + text(index(slot)));
    }
    if (!by_count && leaving.launch != launch.id) refuse("left", "slots of the launch", text(index(slot)));
    if (std::exchange(leaving.named, records) == records) {
      refuse("left", "every slot once", text(index(slot)) + " twice");
    }
    const auto why = static_cast<std::int32_t>(reason);
    if (why < 0 || why >= reasons) refuse("left", "reasons 0 to " + text(reasons - 1), text(why));
    const std::int32_t least = by_count ? 0 : leaving.steps;
    const std::int32_t most = by_count ? options.steps : leaving.steps + 1;
    if (steps < least || steps > most) {
      refuse("left", "steps " + text(least) + " to " + text(most) + " of slot " + text(index(slot)), text(steps));
    }
  }
  const auto rows_by_step = slots(launch);
  for (std::size_t row = rows_by_step.size(); row-- > 0 && image(rows_by_step[row]).steps + 1 == options.steps;) {
    const Image& last = image(rows_by_step[row]);
    if (last.named != records && !last.answered) {
      refuse("left", "all that have taken step " + text(options.steps) + ", the last",
             "none of slot " + text(index(rows_by_step[row])));
    }
  }
}

void Scheduler::State::land(Launch& launch, Seconds now) {
  launch.id = no_launch;
  --flying;
  flying_rows -= launch.rows.count;
  Seconds ahead{};
  for (const Launch& other : launches) {
    if (other.id != no_launch) ahead += other.cost;
  }
  busy_until = std::min(busy_until, now + ahead);
  for (const Slot slot : slots(launch)) image(slot).launch = no_launch;
}

const Launch& Scheduler::State::launch(const Choice& choice, Seconds now) {
  // Rows in the queue's order, as many as may go together: a retried group stays by itself.
  Line& from = line(choice.stage);
  const std::int32_t most = limit(choice.stage);
  const std::int32_t room = std::min(choice.bucket.size, most);
  Launch& record = *std::ranges::find(launches, no_launch, &Launch::id);
  rows.clear();
  if (merging()) {
    record.rows = from.fifo.take(room);
    for (std::int32_t row = 0; row < record.rows.count && !counted(choice.stage); ++row) {
      rows.push_back(waiting.pop_front());
    }
  } else {
    while (static_cast<std::int32_t>(rows.size()) < room && !empty(choice.stage) && limit(choice.stage) == most) {
      rows.push_back(from.heap.pop());
    }
    record.rows.count = static_cast<std::int32_t>(rows.size());
  }
  const std::int32_t count = record.rows.count;
  const bool cut_short = most == unlimited && count < room && !empty(choice.stage);
  const Bucket bucket = cut_short ? costs.cheapest_holding(choice.stage, count) : choice.bucket;

  record.id = LaunchId{planned++};
  record.stage = choice.stage;
  record.bucket = bucket.size;
  record.cost = bucket.cost;
  if (!counted(choice.stage)) name_rows(record);

  const auto all = costs.buckets(choice.stage);
  ++from.launches[static_cast<std::size_t>(std::ranges::lower_bound(all, bucket.size, {}, &Bucket::size) - all.begin())];
  ++flying;
  flying_rows += count;
  busy_until = start(now) + bucket.cost;
  return record;
}

/// Writes `rows` into the record in ascending order of step, stable: count, sum up, place. Then the padding.
void Scheduler::State::name_rows(Launch& record) {
  std::ranges::fill(places, 0);
  for (const Slot slot : rows) ++places[static_cast<std::size_t>(image(slot).steps)];
  std::int32_t sum = 0;
  for (std::int32_t& place : places) sum += std::exchange(place, sum);
  for (const Slot slot : rows) {
    Image& flown = image(slot);
    const auto at = static_cast<std::size_t>(places[static_cast<std::size_t>(flown.steps)]++);
    record.slots[at] = slot;
    record.steps[at] = flown.steps + 1;
    flown.launch = record.id;
  }
  std::fill(record.slots.begin() + record.rows.count, record.slots.begin() + record.bucket, no_slot);
  std::fill(record.steps.begin() + record.rows.count, record.steps.begin() + record.bucket, 0);
}

// Scheduler: the same, one call at a time.

Scheduler::Scheduler(const Options& options, const CostTable& costs) : state_(std::make_unique<State>(options, costs)) {}
Scheduler::~Scheduler() = default;

std::size_t Scheduler::admit(std::span<Slot> slots, Seconds now, std::span<const Seconds> deadlines) {
  State& s = *state_;
  check_finite("now", now);
  for (const Seconds deadline : deadlines) check_finite("deadlines", deadline);
  if (deadlines.size() != (s.options.mode == Mode::deadline ? slots.size() : 0)) {
    refuse("deadlines", "one per image in deadline mode and none in the others",
           text(deadlines.size()) + " for " + text(slots.size()) + " images");
  }
  const std::scoped_lock lock(s.mutex);
  if (s.closed) throw std::logic_error("admit: expected an open scheduler, got a closed one; open() it to admit more images");
  const std::size_t admitted = std::min(slots.size(), s.free.size());
  for (std::size_t i = 0; i < admitted; ++i) {
    const Slot slot = slots[i] = s.free.back();
    s.free.pop_back();
    Image& image = s.image(slot);
    image.order = s.counts.admitted++;
    if (!deadlines.empty()) image.deadline = deadlines[i];
    if (s.merging()) {
      s.waiting.push_back(slot);
    } else {
      s.enqueue(slot);
    }
  }
  if (s.merging() && admitted > 0) {
    s.glance.fifo.push_back({static_cast<std::int32_t>(admitted), unlimited, now, s.planned});
  }
  return admitted;
}

Plan Scheduler::plan(Seconds now) {
  State& s = *state_;
  check_finite("now", now);
  const std::scoped_lock lock(s.mutex);
  s.expire(now);
  const Choice choice = s.choose(now);
  if (choice.verdict == Verdict::launch) {
    const Launch& launch = s.launch(choice, now);
    const auto named = static_cast<std::size_t>(s.counted(launch.stage) ? 0 : launch.bucket);
    return {Verdict::launch, launch.id, launch.stage, launch.bucket, launch.rows.count,
            std::span(launch.slots).first(named), std::span(launch.steps).first(named)};
  }
  Plan plan;
  plan.verdict = choice.verdict;
  plan.wake_at = choice.wake_at;
  if (plan.verdict == Verdict::wait && s.flying < s.options.in_flight &&
      !(s.empty(Stage::glance) && s.empty(Stage::focus))) {
    ++s.counts.waits;
  }
  if (s.options.mode == Mode::deadline) {
    for (const Stage stage : {Stage::glance, Stage::focus}) {
      if (!s.empty(stage)) plan.wake_at = std::min(plan.wake_at, s.head(stage).deadline);
    }
    for (const Launch& launch : s.launches) {
      if (launch.id == no_launch) continue;
      for (const Slot slot : s.slots(launch)) {
        if (!s.image(slot).answered) plan.wake_at = std::min(plan.wake_at, s.image(slot).deadline);
      }
    }
  }
  return plan;
}

void Scheduler::complete(LaunchId id, std::span<const Departure> left, Seconds now) {
  State& s = *state_;
  check_finite("now", now);
  const std::scoped_lock lock(s.mutex);
  Launch& launch = s.find(id);
  s.check(launch, left);
  s.land(launch, now);
  s.counts.passes += launch.rows.count;
  s.counts.padded_rows += launch.bucket - launch.rows.count;
  for (const auto [slot, steps, reason] : left) {
    if (s.image(slot).answered) continue;
    s.image(slot).steps = steps;
    s.depart(slot, reason);
  }
  for (const Slot slot : s.slots(launch)) {
    Image& image = s.image(slot);
    if (image.answered) {
      if (image.collected) s.release(slot);
      continue;
    }
    ++image.steps;
    image.limit = unlimited;
    if (!s.merging()) s.enqueue(slot);
  }
  const std::int32_t stay = launch.rows.count - static_cast<std::int32_t>(left.size());
  if (s.merging() && stay > 0) s.focus.fifo.push_back({stay, unlimited, now, s.planned});
}

void Scheduler::fail(LaunchId id, Seconds now) {
  State& s = *state_;
  check_finite("now", now);
  const std::scoped_lock lock(s.mutex);
  Launch& launch = s.find(id);
  if (launch.rows.count == 1) {
    refuse("id", "a launch of two rows or more", text(static_cast<std::int64_t>(id)) +
           " of one row: complete it, its image leaves as an error");
  }
  s.land(launch, now);
  ++s.counts.failures;
  launch.rows.limit = (launch.rows.count + 1) / 2;
  if (s.merging()) {
    s.line(launch.stage).fifo.push_front(launch.rows);
    const auto slots = s.slots(launch);
    for (std::size_t row = slots.size(); row-- > 0;) s.waiting.push_front(slots[row]);
    return;
  }
  for (const Slot slot : s.slots(launch)) {
    Image& image = s.image(slot);
    if (image.answered) {
      if (image.collected) s.release(slot);
    } else {
      image.limit = launch.rows.limit;
      s.enqueue(slot);
    }
  }
}

void Scheduler::expire(Seconds now) {
  check_finite("now", now);
  const std::scoped_lock lock(state_->mutex);
  state_->expire(now);
}

std::size_t Scheduler::collect(std::span<Departure> departures) {
  State& s = *state_;
  const std::scoped_lock lock(s.mutex);
  const std::size_t collected = std::min(departures.size(), s.departures.size());
  for (Departure& departure : departures.first(collected)) {
    departure = s.departures.pop_front();
    Image& image = s.image(departure.slot);
    image.collected = true;
    if (image.launch == no_launch) s.release(departure.slot);
  }
  return collected;
}

void Scheduler::close() {
  const std::scoped_lock lock(state_->mutex);
  state_->closed = true;
}

void Scheduler::open() {
  const std::scoped_lock lock(state_->mutex);
  state_->closed = false;
}

std::int32_t Scheduler::capacity() const { return state_->options.capacity; }

Occupancy Scheduler::occupancy() const {
  const State& s = *state_;
  const std::scoped_lock lock(s.mutex);
  Occupancy places{.free = static_cast<std::int32_t>(s.free.size()), .waiting = s.queued(Stage::glance),
                   .ready = s.queued(Stage::focus), .in_flight = s.flying_rows, .departed = 0};
  places.departed = s.options.capacity - places.free - places.waiting - places.ready - places.in_flight;
  return places;
}

Statistics Scheduler::statistics() const {
  const State& s = *state_;
  const std::scoped_lock lock(s.mutex);
  Statistics statistics = s.counts;
  statistics.launches = s.planned;
  statistics.glance_launches = s.glance.launches;
  statistics.focus_launches = s.focus.launches;
  return statistics;
}

}  // namespace gfnet

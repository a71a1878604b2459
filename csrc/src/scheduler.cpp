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
      max_steps(options.steps) {
  const auto capacity = static_cast<std::size_t>(options.capacity);
  images.resize(capacity);
  free.reserve(capacity);
  for (std::int32_t slot = options.capacity; slot-- > 0;) free.push_back(Slot{slot});
  departures.resize(capacity);
  launches.resize(static_cast<std::size_t>(std::min(options.in_flight, options.capacity)));
  for (Launch& launch : launches) {
    launch.slots.resize(static_cast<std::size_t>(widest(costs)));
    launch.steps.resize(static_cast<std::size_t>(widest(costs)));
  }
  rows.reserve(static_cast<std::size_t>(widest(costs)));
  places.resize(static_cast<std::size_t>(options.steps) + 1);
}

void Scheduler::State::enqueue(Slot slot, Seconds now) {
  Image& entering = image(slot);
  switch (options.mode) {
    case Mode::throughput: entering.key = static_cast<double>(sequence++); break;
    case Mode::latency: entering.key = static_cast<double>(entering.order); break;
    case Mode::deadline: entering.key = entering.deadline.count(); break;
  }
  entering.queued_at = now;
  entering.queued_launch = planned;
  requeue(slot);
}

void Scheduler::State::requeue(Slot slot) {
  const Image& entering = image(slot);
  line(entering.steps == 0 ? Stage::glance : Stage::focus).queue.push(entering.key, entering.order, slot);
}

void Scheduler::State::depart(Slot slot, Reason reason) {
  Image& leaving = image(slot);
  leaving.answered = true;
  const std::size_t place = (first_departure + static_cast<std::size_t>(departed)) % departures.size();
  departures[place] = {slot, leaving.steps, reason};
  ++departed;
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
      depart(line(stage).queue.pop(), Reason::deadline);
    }
  }
  for (const Launch& launch : launches) {
    if (launch.id == LaunchId{-1}) continue;
    for (std::size_t row = 0; row < static_cast<std::size_t>(launch.count); ++row) {
      const Image& flown = image(launch.slots[row]);
      if (!flown.answered && flown.deadline <= now) depart(launch.slots[row], Reason::deadline);
    }
  }
}

Launch& Scheduler::State::find(LaunchId id) {
  for (Launch& launch : launches) {
    if (launch.id == id && id != LaunchId{-1}) return launch;
  }
  refuse("id", "a launch in flight", text(static_cast<std::int64_t>(id)) +
         ": it was never planned, or has been completed or failed already");
}

void Scheduler::State::land(Launch& launch, Seconds now) {
  launch.id = LaunchId{-1};
  --flying;
  flying_rows -= launch.count;
  Seconds ahead{};
  for (const Launch& other : launches) {
    if (other.id != LaunchId{-1}) ahead += other.cost;
  }
  busy_until = std::min(busy_until, now + ahead);
  for (std::size_t row = 0; row < static_cast<std::size_t>(launch.count); ++row) {
    image(launch.slots[row]).in_flight = false;
  }
}

const Launch& Scheduler::State::launch(const Choice& choice, Seconds now) {
  // Rows in the queue's order, as many as may go together: a retried group stays by itself.
  Line& from = line(choice.stage);
  const std::int32_t limit = head(choice.stage).limit;
  const std::int32_t room = std::min(choice.bucket.size, limit);
  rows.clear();
  while (static_cast<std::int32_t>(rows.size()) < room && !from.queue.empty() && head(choice.stage).limit == limit) {
    rows.push_back(from.queue.pop());
  }
  const auto count = static_cast<std::int32_t>(rows.size());
  const bool cut_short = limit == unlimited && count < room && !from.queue.empty();
  const Bucket bucket = cut_short ? costs.cheapest_holding(choice.stage, count) : choice.bucket;

  Launch& record = *std::ranges::find(launches, LaunchId{-1}, &Launch::id);
  record.id = LaunchId{planned++};
  record.stage = choice.stage;
  record.count = count;
  record.bucket = bucket.size;
  record.cost = bucket.cost;

  // Into the record in ascending order of step, stable: count, sum up, place.
  std::ranges::fill(places, 0);
  for (const Slot slot : rows) ++places[static_cast<std::size_t>(image(slot).steps)];
  std::int32_t sum = 0;
  for (std::int32_t& place : places) sum += std::exchange(place, sum);
  for (const Slot slot : rows) {
    Image& flown = image(slot);
    const auto at = static_cast<std::size_t>(places[static_cast<std::size_t>(flown.steps)]++);
    record.slots[at] = slot;
    record.steps[at] = flown.steps + 1;
    flown.in_flight = true;
  }
  std::fill(record.slots.begin() + count, record.slots.begin() + bucket.size, no_slot);
  std::fill(record.steps.begin() + count, record.steps.begin() + bucket.size, 0);

  const auto all = costs.buckets(choice.stage);
  ++from.launches[static_cast<std::size_t>(std::ranges::lower_bound(all, bucket.size, {}, &Bucket::size) - all.begin())];
  ++flying;
  flying_rows += count;
  busy_until = start(now) + bucket.cost;
  return record;
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
    s.enqueue(slot, now);
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
    const auto bucket = static_cast<std::size_t>(launch.bucket);
    return {Verdict::launch, launch.id, launch.stage, launch.bucket, launch.count,
            std::span(launch.slots).first(bucket), std::span(launch.steps).first(bucket)};
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
      if (launch.id == LaunchId{-1}) continue;
      for (const Slot slot : std::span(launch.slots).first(static_cast<std::size_t>(launch.count))) {
        if (!s.image(slot).answered) plan.wake_at = std::min(plan.wake_at, s.image(slot).deadline);
      }
    }
  }
  return plan;
}

void Scheduler::complete(LaunchId id, std::span<const std::uint8_t> exited, Seconds now) {
  State& s = *state_;
  check_finite("now", now);
  const std::scoped_lock lock(s.mutex);
  Launch& launch = s.find(id);
  const auto count = static_cast<std::size_t>(launch.count);
  if (exited.size() != count && exited.size() != static_cast<std::size_t>(launch.bucket)) {
    refuse("exited", "one flag per row, " + text(count) + " (or " + text(launch.bucket) + " with padding)",
           text(exited.size()));
  }
  s.land(launch, now);
  s.counts.passes += launch.count;
  s.counts.padded_rows += launch.bucket - launch.count;
  for (std::size_t row = 0; row < count; ++row) {
    const Slot slot = launch.slots[row];
    Image& image = s.image(slot);
    if (image.answered) {
      if (image.collected) s.release(slot);
      continue;
    }
    ++image.steps;
    image.limit = unlimited;
    if (exited[row] != 0) {
      s.depart(slot, Reason::exited);
    } else if (image.steps >= s.max_steps) {
      s.depart(slot, Reason::last_step);
    } else {
      s.enqueue(slot, now);
    }
  }
}

void Scheduler::fail(LaunchId id, Seconds now) {
  State& s = *state_;
  check_finite("now", now);
  const std::scoped_lock lock(s.mutex);
  Launch& launch = s.find(id);
  s.land(launch, now);
  ++s.counts.failures;
  for (std::size_t row = 0; row < static_cast<std::size_t>(launch.count); ++row) {
    const Slot slot = launch.slots[row];
    Image& image = s.image(slot);
    if (image.answered) {
      if (image.collected) s.release(slot);
    } else if (launch.count == 1) {
      s.depart(slot, Reason::error);
    } else if (image.steps >= s.max_steps) {
      s.depart(slot, Reason::last_step);
    } else {
      image.limit = (launch.count + 1) / 2;
      s.requeue(slot);
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
  const std::size_t collected = std::min(departures.size(), static_cast<std::size_t>(s.departed));
  for (std::size_t i = 0; i < collected; ++i) {
    departures[i] = s.departures[s.first_departure];
    s.first_departure = (s.first_departure + 1) % s.departures.size();
    --s.departed;
    Image& image = s.image(departures[i].slot);
    image.collected = true;
    if (!image.in_flight) s.release(departures[i].slot);
  }
  return collected;
}

void Scheduler::set_max_steps(std::int32_t steps) {
  State& s = *state_;
  check_range("steps", steps, 1, s.options.steps);
  const std::scoped_lock lock(s.mutex);
  s.max_steps = steps;
  s.focus.queue.remove_if([&](Slot slot) {
    if (s.image(slot).steps < steps) return false;
    s.depart(slot, Reason::last_step);
    return true;
  });
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

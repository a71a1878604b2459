/// A second, slow and simple account of what a scheduler may do. Every call goes through to the real scheduler, and
/// whatever it answers is held against the rules: nothing lost, nothing twice, steps in order, capacity kept, nobody
/// starves, every launch one that its mode allows.
#pragma once

#include <algorithm>
#include <limits>
#include <map>
#include <vector>

#include "check.hpp"
#include "gfnet/cover.hpp"
#include "gfnet/scheduler.hpp"

namespace gfnet {

class Checked {
 public:
  Checked(const Options& options, const CostTable& costs)
      : options_(options),
        costs_(costs),
        scheduler_(options, costs),
        glance_cover_(costs.buckets(Stage::glance), options.capacity, Objective::device_time),
        max_steps_(options.steps),
        images_(static_cast<std::size_t>(options.capacity)) {}

  struct Flight {
    LaunchId id;
    Stage stage;
    std::int32_t bucket;
    std::vector<Slot> rows;
    double cost;
  };

  const std::vector<Flight>& flights() const { return flights_; }
  std::int32_t queued() const { return count(queued_); }
  std::int64_t admitted() const { return admitted_; }
  std::int64_t collected() const { return collected_; }
  Scheduler& scheduler() { return scheduler_; }

  std::size_t admit(std::size_t n, double now, double patience_of_caller) {
    std::vector<Slot> slots(n);
    std::vector<Seconds> deadlines;
    if (options_.mode == Mode::deadline) {
      for (std::size_t i = 0; i < n; ++i) deadlines.emplace_back(now + patience_of_caller * double(i % 3 + 1));
    }
    if (closed_) {
      CHECK_THROWS(std::logic_error, scheduler_.admit(slots, Seconds{now}, deadlines));
      return 0;
    }
    const std::size_t got = scheduler_.admit(slots, Seconds{now}, deadlines);
    CHECK(got == std::min(n, static_cast<std::size_t>(count(free_))));  // capacity kept
    for (std::size_t i = 0; i < got; ++i) {
      CHECK(index(slots[i]) >= 0 && index(slots[i]) < options_.capacity);
      Image& image = at(slots[i]);
      CHECK(image.place == free_);  // nothing twice
      image = Image{};
      image.order = admitted_++;
      if (!deadlines.empty()) image.deadline = deadlines[i].count();
      enqueue(image, now);
    }
    return got;
  }

  Plan plan(double now) {
    expire_model(now);
    const Plan plan = scheduler_.plan(Seconds{now});
    if (plan.verdict == Verdict::launch) {
      check_launch(plan, now);
    } else {
      check_pause(plan, now);
    }
    return plan;
  }

  template <class Exits>
  void complete(std::size_t which, double now, Exits exits) {
    const Flight flight = flights_[which];
    std::vector<std::uint8_t> flags(flight.rows.size());
    for (std::uint8_t& flag : flags) flag = exits() ? 1 : 0;
    scheduler_.complete(flight.id, flags, Seconds{now});
    land(which, now);
    passes_ += std::int64_t(flight.rows.size());
    padded_ += flight.bucket - std::int64_t(flight.rows.size());
    for (std::size_t row = 0; row < flags.size(); ++row) {
      Image& image = at(flight.rows[row]);
      if (image.place != flying_) {
        if (image.place == gone_) image.place = free_;
        if (image.place == left_flying_) image.place = left_;
        continue;
      }
      ++image.steps;
      image.limit = std::numeric_limits<std::int32_t>::max();
      if (flags[row] != 0) {
        leave(image, flight.rows[row], Reason::exited, left_);
      } else if (image.steps >= max_steps_) {
        leave(image, flight.rows[row], Reason::last_step, left_);
      } else {
        enqueue(image, now);
      }
    }
  }

  void fail(std::size_t which, double now) {
    const Flight flight = flights_[which];
    scheduler_.fail(flight.id, Seconds{now});
    land(which, now);
    ++failures_;
    const auto rows = static_cast<std::int32_t>(flight.rows.size());
    for (const Slot slot : flight.rows) {
      Image& image = at(slot);
      if (image.place != flying_) {
        if (image.place == gone_) image.place = free_;
        if (image.place == left_flying_) image.place = left_;
      } else if (rows == 1) {
        leave(image, slot, Reason::error, left_);
      } else if (image.steps >= max_steps_) {
        leave(image, slot, Reason::last_step, left_);
      } else {
        image.limit = (rows + 1) / 2;
        image.place = queued_;
      }
    }
  }

  void expire(double now) {
    expire_model(now);
    scheduler_.expire(Seconds{now});
  }

  std::size_t collect(std::size_t n) {
    std::vector<Departure> got(n);
    got.resize(scheduler_.collect(got));
    CHECK(got.size() == std::min(n, departures_.size()));  // nothing lost
    for (const Departure& departure : got) {
      const auto expected = departures_.find(index(departure.slot));
      CHECK(expected != departures_.end());  // nothing twice
      CHECK(expected->second.steps == departure.steps);
      CHECK(expected->second.reason == departure.reason);
      departures_.erase(expected);
      Image& image = at(departure.slot);
      image.place = image.place == left_flying_ ? gone_ : free_;
      ++collected_;
    }
    return got.size();
  }

  void set_max_steps(std::int32_t steps) {
    scheduler_.set_max_steps(steps);
    max_steps_ = steps;
    for (std::size_t i = 0; i < images_.size(); ++i) {
      Image& image = images_[i];
      if (image.place == queued_ && image.steps >= steps) {
        leave(image, Slot{static_cast<std::int32_t>(i)}, Reason::last_step, left_);
      }
    }
  }

  void close() { scheduler_.close(), closed_ = true; }
  void open() { scheduler_.open(), closed_ = false; }
  bool closed() const { return closed_; }

  /// The counters, and that every image is in exactly one place.
  void audit() const {
    const Statistics statistics = scheduler_.statistics();
    CHECK(statistics.admitted == admitted_);
    CHECK(statistics.passes == passes_);
    CHECK(statistics.padded_rows == padded_);
    CHECK(statistics.launches == planned_);
    CHECK(statistics.failures == failures_);
    std::int64_t by_bucket = 0;
    for (const auto n : statistics.glance_launches) by_bucket += n;
    for (const auto n : statistics.focus_launches) by_bucket += n;
    CHECK(by_bucket == planned_);
    const Occupancy places = scheduler_.occupancy();
    CHECK(places.free == count(free_));
    CHECK(places.waiting + places.ready == count(queued_));
    CHECK(places.in_flight == count(flying_) + count(left_flying_) + count(gone_));
    CHECK(places.departed == count(left_));
    CHECK(places.free + places.waiting + places.ready + places.in_flight + places.departed == options_.capacity);
    CHECK(admitted_ == collected_ + std::int64_t(departures_.size()) + count(queued_) + count(flying_));
  }

 private:
  // left_flying_: departed, launch still in flight. gone_: the same, and collected.
  enum Place { free_, queued_, flying_, left_, left_flying_, gone_ };

  struct Image {
    Place place = free_;
    std::int64_t order = 0;
    std::int64_t turn = 0;     ///< of queueing
    std::int64_t planned = 0;  ///< launches there had been at queueing
    double queued_at = 0;
    double deadline = 0;
    std::int32_t steps = 0;
    std::int32_t limit = std::numeric_limits<std::int32_t>::max();
    Stage stage() const { return steps == 0 ? Stage::glance : Stage::focus; }
    bool limited() const { return limit != std::numeric_limits<std::int32_t>::max(); }
  };

  struct Expected {
    std::int32_t steps;
    Reason reason;
  };

  Image& at(Slot slot) { return images_[static_cast<std::size_t>(index(slot))]; }

  std::int32_t count(Place place) const {
    return std::int32_t(std::ranges::count(images_, place, &Image::place));
  }

  std::int32_t queued(Stage stage) const {
    return std::int32_t(
        std::ranges::count_if(images_, [&](const Image& i) { return i.place == queued_ && i.stage() == stage; }));
  }

  /// Whether `a` goes before `b` in the queue of their stage.
  bool before(const Image& a, const Image& b) const {
    if (options_.mode == Mode::throughput) return a.turn < b.turn;
    if (options_.mode == Mode::deadline && a.deadline != b.deadline) return a.deadline < b.deadline;
    return a.order < b.order;
  }

  const Image* head(Stage stage) const {
    const Image* first = nullptr;
    for (const Image& image : images_) {
      if (image.place == queued_ && image.stage() == stage && (!first || before(image, *first))) first = &image;
    }
    return first;
  }

  void enqueue(Image& image, double now) {
    image.place = queued_;
    image.turn = turns_++;
    image.planned = planned_;
    image.queued_at = now;
  }

  void leave(Image& image, Slot slot, Reason reason, Place place) {
    image.place = place;
    CHECK(departures_.emplace(index(slot), Expected{image.steps, reason}).second);
  }

  void land(std::size_t which, double now) {
    flights_.erase(flights_.begin() + std::ptrdiff_t(which));
    double ahead = 0;
    for (const Flight& flight : flights_) ahead += flight.cost;
    busy_until_ = std::min(busy_until_, now + ahead);
  }

  double quickest(const Image& image) const {
    if (image.limited()) return costs_.smallest_holding(image.stage(), image.limit).cost.count();
    double least = std::numeric_limits<double>::infinity();
    for (const Bucket& bucket : costs_.buckets(image.stage())) least = std::min(least, bucket.cost.count());
    return least;
  }

  void expire_model(double now) {
    if (options_.mode != Mode::deadline) return;
    for (const Stage stage : {Stage::glance, Stage::focus}) {
      while (const Image* first = head(stage)) {
        const bool in_time = std::max(now, busy_until_) + quickest(*first) <= first->deadline;
        if (first->deadline > now && in_time) break;
        leave(images_[std::size_t(first - images_.data())], Slot{std::int32_t(first - images_.data())},
              Reason::deadline, left_);
      }
    }
    for (const Flight& flight : flights_) {
      for (const Slot slot : flight.rows) {
        if (at(slot).place == flying_ && at(slot).deadline <= now) leave(at(slot), slot, Reason::deadline, left_flying_);
      }
    }
  }

  void check_pause(const Plan& plan, double now) const {
    const std::int32_t waiting = queued(Stage::glance), ready = queued(Stage::focus);
    const bool can_launch = std::int32_t(flights_.size()) < options_.in_flight;
    switch (plan.verdict) {
      case Verdict::done: CHECK(closed_ && waiting + ready == 0 && flights_.empty()); break;
      case Verdict::wait:
        CHECK(!flights_.empty());  // never wait for nothing
        if (can_launch && waiting + ready > 0) {
          CHECK(options_.mode == Mode::throughput);
          CHECK(ready < best(Stage::focus) && waiting < best(Stage::glance));
          CHECK(!(closed_ && waiting > 0));
        }
        break;
      case Verdict::starved:
        CHECK(!closed_ && flights_.empty());
        if (waiting + ready > 0) {
          CHECK(options_.mode == Mode::throughput);
          CHECK(ready < best(Stage::focus) && waiting < best(Stage::glance));
          CHECK(count(free_) + count(left_) > 0);
          CHECK(plan.wake_at.count() > now);
        }
        break;
      case Verdict::launch: CHECK(false);
    }
  }

  std::int32_t best(Stage stage) const { return costs_.best_rate(stage, options_.capacity).size; }

  void check_launch(const Plan& plan, double now) {
    const auto& buckets = costs_.buckets(plan.stage);
    const auto bucket = std::ranges::find(buckets, plan.bucket, &Bucket::size);
    CHECK(bucket != buckets.end());  // a fixed shape
    CHECK(plan.count >= 1 && plan.count <= plan.bucket);
    CHECK(std::int32_t(plan.slots.size()) == plan.bucket && std::int32_t(plan.steps.size()) == plan.bucket);
    CHECK(std::int32_t(flights_.size()) < options_.in_flight);
    const std::int32_t waiting = queued(Stage::glance), ready = queued(Stage::focus);
    const Image first = *head(plan.stage);

    std::vector<Slot> rows;
    for (std::size_t row = 0; row < plan.slots.size(); ++row) {
      if (row >= std::size_t(plan.count)) {
        CHECK(plan.slots[row] == no_slot && plan.steps[row] == 0);
        continue;
      }
      CHECK(index(plan.slots[row]) >= 0 && index(plan.slots[row]) < options_.capacity);
      Image& image = at(plan.slots[row]);
      CHECK(image.place == queued_);               // nothing twice
      CHECK(plan.steps[row] == image.steps + 1);   // steps in order
      CHECK(image.steps < max_steps_ && image.stage() == plan.stage);
      CHECK(row == 0 || plan.steps[row - 1] <= plan.steps[row]);
      CHECK(image.limit == first.limit && plan.count <= image.limit);
      image.place = flying_;
      rows.push_back(plan.slots[row]);
    }
    // The first of the queue, as many as fit.
    const Image* next = head(plan.stage);
    for (const Slot slot : rows) CHECK(!next || before(at(slot), *next));
    if (next && next->limit == first.limit) CHECK(plan.count == std::min(plan.bucket, first.limit));

    if (plan.count < plan.bucket && !first.limited()) {  // no more padding than pays
      for (const Bucket& cheaper : buckets) CHECK(cheaper.size < plan.count || cheaper.cost >= bucket->cost);
    }

    check_mode(plan, *bucket, first, waiting, ready, now);
    const double begin = std::max(now, busy_until_);
    for (const Slot slot : rows) {
      const Image& image = at(slot);
      if (options_.mode == Mode::deadline) CHECK(begin + bucket->cost.count() <= image.deadline);
      if (failures_ > 0) continue;
      if (options_.mode == Mode::throughput) CHECK(planned_ - image.planned <= options_.patience + options_.capacity);
      if (options_.mode == Mode::latency) CHECK(planned_ - image.planned <= options_.capacity * options_.steps);
    }
    busy_until_ = begin + bucket->cost.count();
    ++planned_;
    flights_.push_back({plan.id, plan.stage, plan.bucket, rows, bucket->cost.count()});
  }

  void check_mode(const Plan& plan, const Bucket& bucket, const Image& first, std::int32_t waiting,
                  std::int32_t ready, double now) const {
    const Image* other = head(plan.stage == Stage::glance ? Stage::focus : Stage::glance);
    if (options_.mode == Mode::latency) CHECK(!other || first.order < other->order);
    if (options_.mode == Mode::deadline && plan.stage == Stage::focus && other) {
      const double begin = std::max(now, busy_until_);
      CHECK(first.deadline < other->deadline);
      CHECK(begin + bucket.cost.count() <= other->deadline - glance_cover_.value(waiting).count());
    }
    if (options_.mode != Mode::throughput) return;
    const bool full = plan.count == plan.bucket && plan.bucket == best(plan.stage);
    const bool overdue = planned_ - first.planned >= options_.patience;
    if (other && !first.limited()) {  // nobody starves: the older of two overdue heads goes, a retry before both
      CHECK(!other->limited());
      CHECK(planned_ - other->planned < options_.patience || (overdue && first.planned <= other->planned));
    }
    if (full && plan.stage == Stage::glance) CHECK(overdue || closed_ || ready < best(Stage::focus));
    if (full || first.limited() || overdue) return;
    // Padding, or a bucket other than the best, needs a reason.
    const bool idle = flights_.empty();
    double oldest = first.queued_at;
    if (other) oldest = std::min(oldest, other->queued_at);
    const bool no_room = count(free_) + count(left_) == 0;
    const bool only_certain = closed_ && plan.stage == Stage::glance;
    CHECK(only_certain || (idle && (closed_ || no_room || now >= oldest + options_.linger.count())));
  }

  Options options_;
  CostTable costs_;
  Scheduler scheduler_;
  Cover glance_cover_;
  std::int32_t max_steps_;
  std::vector<Image> images_;
  std::vector<Flight> flights_;
  std::map<std::int32_t, Expected> departures_;
  double busy_until_ = -std::numeric_limits<double>::infinity();
  bool closed_ = false;
  std::int64_t turns_ = 0, planned_ = 0, admitted_ = 0, collected_ = 0, passes_ = 0, padded_ = 0, failures_ = 0;
};

}  // namespace gfnet

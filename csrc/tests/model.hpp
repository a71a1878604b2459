/// A second, slow and simple account of what a scheduler may do. Every call goes through to the real scheduler, and
/// whatever it answers is held against the rules: nothing lost, nothing twice, steps in order, capacity kept, nobody
/// starves, every launch one that its mode allows. It plays the device, too: which rows a counted launch takes, and who
/// leaves with a launch.
#pragma once

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <optional>
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
        images_(static_cast<std::size_t>(options.capacity)) {}

  struct Flight {
    LaunchId id;
    Stage stage;
    std::int32_t bucket;
    std::int32_t count;
    std::vector<Slot> rows;  ///< none of a counted launch
    double cost;
  };

  const std::vector<Flight>& flights() const { return flights_; }
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

  /// A launch ends. `leaves(step)` says whether an image leaves that takes this step, with which steps and reason.
  template <class Leaves>
  void complete(std::size_t which, double now, Leaves leaves) {
    std::vector<Departure> left;
    for (const Slot slot : rows(flights_[which])) {
      const Image& image = at(slot);
      std::optional<Departure> leaving = leaves(image.steps + 1);
      const bool answered = image.place == left_flying_ || image.place == gone_;
      if (!leaving && !answered && image.steps + 1 == options_.steps) {
        leaving = {slot, options_.steps, Reason::last_step};
      }
      if (leaving) left.push_back({slot, leaving->steps, leaving->reason});
    }
    if (now > 0) std::ranges::reverse(left);  // any order will do
    settle(which, now, left);
  }

  /// A launch fails; one of a single row ends, and its image leaves as an error.
  void fail(std::size_t which, double now) {
    Flight flight = flights_[which];
    if (flight.count == 1) {
      const Slot alone = rows(flight).front();
      return settle(which, now, {{alone, at(alone).steps, Reason::error}});
    }
    scheduler_.fail(flight.id, Seconds{now});
    land(which, now);
    ++failures_;
    const std::int32_t limit = (flight.count + 1) / 2;
    front_ -= flight.count;
    for (std::int32_t row = 0; row < flight.count && counted(flight.stage); ++row) {
      Image& known = flown_.at(flight.id)[std::size_t(row)];
      known.limit = limit;
      known.failure = failures_;
      ready_.insert(ready_.begin() + row, known);
    }
    flown_.erase(flight.id);
    for (std::size_t row = 0; row < flight.rows.size(); ++row) {
      Image& image = at(flight.rows[row]);
      if (image.place != flying_) {
        freed(image);
        continue;
      }
      image.limit = limit;
      if (merging()) image.failure = failures_, image.turn = front_ + std::int64_t(row);
      image.place = queued_;
    }
  }

  /// A call that must be refused, and change nothing. `kind` from 0 to 11 says what is wrong with it.
  void misuse(std::size_t which, int kind, double now) {
    const Flight& flight = flights_[which];
    const bool by_count = counted(flight.stage);
    std::vector<Departure> left;
    for (const Slot slot : rows(flight)) left.push_back({slot, at(slot).steps + 1, Reason::exited});
    Departure& first = left.front();
    LaunchId id = flight.id;
    switch (kind) {
      case 0: id = LaunchId{static_cast<std::int64_t>(id) + 1000000}; break;
      case 1:  // one more than there are rows
        left.push_back(first);
        if (by_count && ring_.size() >= left.size()) left.back().slot = ring_[left.size() - 1];
        break;
      case 2:
        if (left.size() == 1) return;
        left.back() = first;
        break;
      case 3: first.slot = Slot{options_.capacity}; break;
      case 4: first.slot = no_slot; break;
      case 5: first.reason = Reason{reasons}; break;
      case 6: first.reason = Reason{-1}; break;
      case 7: first.steps = by_count ? options_.steps + 1 : first.steps + 1; break;
      case 8: first.steps = by_count ? -1 : first.steps - 2; break;
      case 9: {  // somebody else
        std::int32_t other = 0;
        const auto fits = [&](Slot slot) {
          return by_count ? at(slot).place == merged_ : std::ranges::count(flight.rows, slot) > 0;
        };
        while (other < options_.capacity && fits(Slot{other})) ++other;
        if (other == options_.capacity) return;
        first.slot = Slot{other};
        first.steps = by_count ? 1 : at(Slot{other}).steps + 1;
        break;
      }
      case 10: {  // takes the last step, and stays
        const auto last = std::ranges::find_if(left, [&](const Departure& d) {
          return !by_count && at(d.slot).steps + 1 == options_.steps && at(d.slot).place == flying_;
        });
        if (last == left.end()) return;
        left.erase(last);
        break;
      }
      default:
        if (flight.count == 1) CHECK_THROWS(std::invalid_argument, scheduler_.fail(id, Seconds{now}));
        return;
    }
    CHECK_THROWS(std::invalid_argument, scheduler_.complete(id, left, Seconds{now}));
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
      CHECK(expected->second.turn >= last_turn_);  // in the order of leaving
      last_turn_ = expected->second.turn;
      departures_.erase(expected);
      Image& image = at(departure.slot);
      image.place = image.place == left_flying_ ? gone_ : free_;
      ++collected_;
    }
    return got.size();
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
    CHECK(places.waiting == queued(Stage::glance) && places.ready == queued(Stage::focus));
    std::int32_t flying = 0;
    for (const Flight& flight : flights_) flying += flight.count;
    CHECK(places.in_flight == flying);
    CHECK(places.departed == count(left_));
    CHECK(places.free + places.waiting + places.ready + places.in_flight + places.departed == options_.capacity);
    CHECK(admitted_ == collected_ + std::int64_t(departures_.size()) + count(queued_) + count(flying_) +
                           count(merged_));
    std::int64_t by_reason = 0;
    for (const auto n : statistics.departed) by_reason += n;
    CHECK(by_reason == collected_ + std::int64_t(departures_.size()));
  }

 private:
  // merged_: in the device's ring, ready or in a counted launch. left_flying_: departed, launch still in flight. gone_:
  // the same, and collected.
  enum Place { free_, queued_, flying_, merged_, left_, left_flying_, gone_ };

  struct Image {
    Place place = free_;
    std::int64_t order = 0;
    std::int64_t turn = 0;     ///< of queueing
    std::int64_t planned = 0;  ///< launches there had been at queueing
    double queued_at = 0;
    double deadline = 0;
    std::int32_t steps = 0;
    std::int32_t limit = std::numeric_limits<std::int32_t>::max();
    std::int64_t failure = 0;  ///< throughput: the one after which it is retried
    Stage stage() const { return steps == 0 ? Stage::glance : Stage::focus; }
    bool limited() const { return limit != std::numeric_limits<std::int32_t>::max(); }
  };

  struct Expected {
    std::int32_t steps;
    Reason reason;
    std::int64_t turn;
  };

  bool merging() const { return options_.mode == Mode::throughput; }
  bool counted(Stage stage) const { return merging() && stage == Stage::focus; }

  /// Those that a launch takes, if it ends next.
  std::vector<Slot> rows(const Flight& flight) const {
    return counted(flight.stage) ? std::vector(ring_.begin(), ring_.begin() + flight.count) : flight.rows;
  }

  static void freed(Image& image) {
    if (image.place == gone_) image.place = free_;
    if (image.place == left_flying_) image.place = left_;
  }

  void settle(std::size_t which, double now, const std::vector<Departure>& left) {
    const Flight flight = flights_[which];
    const std::vector<Slot> taken = rows(flight);
    scheduler_.complete(flight.id, left, Seconds{now});
    land(which, now);
    flown_.erase(flight.id);
    if (counted(flight.stage)) ring_.erase(ring_.begin(), ring_.begin() + flight.count);
    passes_ += flight.count;
    padded_ += flight.bucket - flight.count;
    for (const Departure& leaving : left) {
      Image& image = at(leaving.slot);
      if (image.place != flying_ && image.place != merged_) continue;  // answered meanwhile
      image.steps = leaving.steps;
      ++turn_of_leaving_;
      leave(image, leaving.slot, leaving.reason, left_);
    }
    for (const Slot slot : taken) {
      Image& image = at(slot);
      freed(image);
      if (image.place != flying_ && image.place != merged_) continue;
      ++image.steps;
      image.limit = std::numeric_limits<std::int32_t>::max();
      image.failure = 0;
      enqueue(image, now);
      if (!merging()) continue;
      image.place = merged_;
      ready_.push_back(image);
      ring_.push_back(slot);
    }
  }

  Image& at(Slot slot) { return images_[static_cast<std::size_t>(index(slot))]; }

  std::int32_t count(Place place) const {
    return std::int32_t(std::ranges::count(images_, place, &Image::place));
  }

  std::int32_t queued(Stage stage) const {
    if (counted(stage)) return std::int32_t(ready_.size());
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
    if (counted(stage)) return ready_.empty() ? nullptr : &ready_.front();
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
    CHECK(departures_.emplace(index(slot), Expected{image.steps, reason, turn_of_leaving_}).second);
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
    ++turn_of_leaving_;
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
    const std::int32_t named = counted(plan.stage) ? 0 : plan.bucket;
    CHECK(std::int32_t(plan.slots.size()) == named && std::int32_t(plan.steps.size()) == named);
    CHECK(std::int32_t(flights_.size()) < options_.in_flight);
    const std::int32_t waiting = queued(Stage::glance), ready = queued(Stage::focus);
    CHECK(plan.count <= queued(plan.stage));
    const Image first = *head(plan.stage);
    const auto together = [&](const Image& image) {  // a retried group stays by itself
      return image.limit == first.limit && image.failure == first.failure;
    };

    std::vector<Slot> rows;
    std::vector<Image> taken;
    for (std::size_t row = 0; row < plan.slots.size(); ++row) {
      if (row >= std::size_t(plan.count)) {
        CHECK(plan.slots[row] == no_slot && plan.steps[row] == 0);
        continue;
      }
      CHECK(index(plan.slots[row]) >= 0 && index(plan.slots[row]) < options_.capacity);
      Image& image = at(plan.slots[row]);
      CHECK(image.place == queued_);               // nothing twice
      CHECK(plan.steps[row] == image.steps + 1);   // steps in order
      CHECK(image.steps < options_.steps && image.stage() == plan.stage);
      CHECK(row == 0 || plan.steps[row - 1] <= plan.steps[row]);
      CHECK(!merging() || row == 0 || before(at(plan.slots[row - 1]), image));
      image.place = flying_;
      rows.push_back(plan.slots[row]);
      taken.push_back(image);
    }
    if (counted(plan.stage)) {
      taken.assign(ready_.begin(), ready_.begin() + plan.count);
      ready_.erase(ready_.begin(), ready_.begin() + plan.count);
      flown_[plan.id] = taken;
    }
    // The first of the queue, as many as fit.
    const Image* next = head(plan.stage);
    for (const Image& image : taken) {
      CHECK(together(image) && plan.count <= image.limit);
      CHECK(!next || counted(plan.stage) || before(image, *next));
    }
    if (next && together(*next)) CHECK(plan.count == std::min(plan.bucket, first.limit));

    if (plan.count < plan.bucket && !first.limited()) {  // no more padding than pays
      for (const Bucket& cheaper : buckets) CHECK(cheaper.size < plan.count || cheaper.cost >= bucket->cost);
    }

    check_mode(plan, *bucket, first, waiting, ready, now);
    const double begin = std::max(now, busy_until_);
    for (const Image& image : taken) {
      if (options_.mode == Mode::deadline) CHECK(begin + bucket->cost.count() <= image.deadline);
      if (failures_ > 0) continue;
      if (options_.mode == Mode::throughput) CHECK(planned_ - image.planned <= options_.patience + options_.capacity);
      if (options_.mode == Mode::latency) CHECK(planned_ - image.planned <= options_.capacity * options_.steps);
    }
    busy_until_ = begin + bucket->cost.count();
    ++planned_;
    flights_.push_back({plan.id, plan.stage, plan.bucket, plan.count, rows, bucket->cost.count()});
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
  std::vector<Image> images_;
  std::deque<Slot> ring_;    ///< the device's: who is ready, or in a counted launch
  std::deque<Image> ready_;  ///< what is known of the queued ones of them, row by row
  std::map<LaunchId, std::vector<Image>> flown_;  ///< the same of the rows of a counted launch
  std::vector<Flight> flights_;
  std::map<std::int32_t, Expected> departures_;
  double busy_until_ = -std::numeric_limits<double>::infinity();
  bool closed_ = false;
  std::int64_t turns_ = 0, front_ = 0, turn_of_leaving_ = 0, last_turn_ = 0;
  std::int64_t planned_ = 0, admitted_ = 0, collected_ = 0, passes_ = 0, padded_ = 0, failures_ = 0;
};

}  // namespace gfnet

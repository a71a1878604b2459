#include <cmath>
#include <random>

#include "helpers.hpp"

using namespace gfnet;

namespace {

const CostTable table = same({{1, 1.0}, {4, 2.0}});

Options deadline(std::int32_t in_flight = 1) {
  Options options;
  options.capacity = 32;
  options.steps = 5;
  options.mode = Mode::deadline;
  options.in_flight = in_flight;
  return options;
}

void earliest_deadline_first() {
  Device scheduler(deadline(2), table);
  const Slot late = admit(scheduler, 1, 0, {50}).front();
  const Slot early = admit(scheduler, 1, 0, {5}).front();
  const Plan both = expect(scheduler, Stage::glance, 1, 1);  // 1 s for one row beats 2 s for two in 4
  CHECK(both.slots[0] == early);
  CHECK(expect(scheduler, Stage::glance, 1, 1).slots[0] == late);
}

void leaves_with_its_newest_prediction() {
  Device scheduler(deadline(), table);
  admit(scheduler, 1, 0, {2.5});
  complete(scheduler, expect(scheduler, Stage::glance, 1, 1, 0), false, 1);
  complete(scheduler, expect(scheduler, Stage::focus, 1, 1, 1), false, 2);
  CHECK(verdict(scheduler, 2) == Verdict::starved);  // a third pass would end at 3
  const auto left = collect(scheduler);
  CHECK(left.size() == 1 && left[0].steps == 2 && left[0].reason == Reason::deadline);
}

void never_starts_what_cannot_end_in_time() {
  Device scheduler(deadline(), table);
  admit(scheduler, 2, 0, {0.5, 0.9});
  CHECK(verdict(scheduler) == Verdict::starved);
  const auto left = collect(scheduler);
  CHECK(left.size() == 2 && left[0].steps == 0 && left[1].reason == Reason::deadline);
  CHECK(scheduler.statistics().launches == 0);
  // Four rows by 1.5: only the bucket of one ends in time, whatever the rate.
  admit(scheduler, 4, 10, {11.5, 20, 20, 20});
  expect(scheduler, Stage::glance, 1, 1, 10);
}

void a_late_launch_does_not_hold_the_answer() {
  Device scheduler(deadline(), table);
  const Slot slot = admit(scheduler, 1, 0, {3}).front();
  complete(scheduler, expect(scheduler, Stage::glance, 1, 1, 0), false, 1);
  const Plan slow = expect(scheduler, Stage::focus, 1, 1, 1);
  const Plan pause = scheduler.plan(Seconds{2});
  CHECK(pause.verdict == Verdict::wait && pause.wake_at == Seconds{3});
  scheduler.expire(Seconds{3});
  const auto left = collect(scheduler);
  CHECK(left.size() == 1 && left[0].slot == slot && left[0].steps == 1);
  CHECK(scheduler.occupancy().free == 31);  // the launch still writes to it
  complete(scheduler, slow, true, 4);
  CHECK(scheduler.occupancy().free == 32);
  CHECK(collect(scheduler).empty());  // not twice
}

void a_first_answer_comes_before_a_better_one() {
  Device scheduler(deadline(), table);
  admit(scheduler, 1, 0, {4});
  complete(scheduler, expect(scheduler, Stage::glance, 1, 1, 0), false, 1);
  admit(scheduler, 8, 1, std::vector<double>(8, 5.5));
  // Focus first (deadline 4) would end at 2 and leave 3.5 s for eight glances, which take 4.
  expect(scheduler, Stage::glance, 4, 4, 1);
}

/// With exact costs and loads the glances of which fit, everyone is answered in time.
void nobody_misses_a_time_that_can_be_met() {
  std::mt19937 random(3);
  double now = 0;
  Device scheduler(deadline(), table);
  std::vector<double> due(32);
  const auto check_in_time = [&] {
    for (const Departure& departure : collect(scheduler)) {
      CHECK(departure.steps >= 1);
      CHECK(now <= due[std::size_t(index(departure.slot))]);
    }
  };
  for (int round = 0; round < 20000; ++round) {
    const auto places = scheduler.occupancy();
    if (places.waiting == 0 && places.free >= 8) {
      const double time = now + 4 + double(random() % 40);
      for (const Slot slot : admit(scheduler, 8, now, std::vector<double>(8, time))) due[std::size_t(index(slot))] = time;
    }
    const Plan plan = scheduler.plan(Seconds{now});
    check_in_time();
    if (plan.verdict == Verdict::launch) {
      const double end = now + (plan.bucket == 1 ? 1.0 : 2.0);
      for (Plan pause; (pause = scheduler.plan(Seconds{now})).wake_at < Seconds{end};) {  // some are due before that
        CHECK(pause.verdict == Verdict::wait);
        check_in_time();
        now = pause.wake_at.count();
      }
      check_in_time();
      now = end;
      complete(scheduler, plan, random() % 4 == 0, now);
    }
    check_in_time();
  }
}

void deadlines_are_asked_for() {
  Device scheduler(deadline(), table);
  CHECK_THROWS(std::invalid_argument, admit(scheduler, 2));
  CHECK_THROWS(std::invalid_argument, admit(scheduler, 2, 0, {1}));
  CHECK_THROWS(std::invalid_argument, admit(scheduler, 1, 0, {std::numeric_limits<double>::infinity()}));
}

/// What is planned does not depend on where the clock's zero is.
void any_clock() {
  for (const double zero : {-1e6, -10.0, 0.0, 1.7e9}) {
    Device scheduler(deadline(), table);
    admit(scheduler, 1, zero, {zero + 2.5});
    complete(scheduler, expect(scheduler, Stage::glance, 1, 1, zero), false, zero + 1);
    complete(scheduler, expect(scheduler, Stage::focus, 1, 1, zero + 1), false, zero + 2);
    CHECK(verdict(scheduler, zero + 2) == Verdict::starved);
    const auto left = collect(scheduler);
    CHECK(left.size() == 1 && left[0].steps == 2 && left[0].reason == Reason::deadline);
  }
}

/// A cost that the clock cannot show: the image is gone at its deadline, and the next time to ask is a later one.
void a_cost_below_the_clocks_precision() {
  Device scheduler(deadline(), same({{1, 1e-20}}));
  admit(scheduler, 2, 0, {1, 1});
  expect(scheduler, Stage::glance, 1, 1);
  CHECK(scheduler.plan(Seconds{0}).wake_at == Seconds{1});
  CHECK(scheduler.plan(Seconds{1}).wake_at > Seconds{1});
  CHECK(collect(scheduler).size() == 2);
}

}  // namespace

int main() {
  any_clock();
  a_cost_below_the_clocks_precision();
  earliest_deadline_first();
  leaves_with_its_newest_prediction();
  never_starts_what_cannot_end_in_time();
  a_late_launch_does_not_hold_the_answer();
  a_first_answer_comes_before_a_better_one();
  nobody_misses_a_time_that_can_be_met();
  deadlines_are_asked_for();
}

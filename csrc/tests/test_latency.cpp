#include "helpers.hpp"

using namespace gfnet;

namespace {

Options latency() {
  Options options;
  options.capacity = 32;
  options.steps = 3;
  options.mode = Mode::latency;
  return options;
}

void oldest_first() {
  Device scheduler(latency(), same({{1, 1.0}, {8, 2.0}}));
  const Slot old = admit(scheduler, 1).front();
  const Plan glance = expect(scheduler, Stage::glance, 1, 1);
  admit(scheduler, 5);
  complete(scheduler, glance, false);
  const Plan focus = expect(scheduler, Stage::focus, 1, 1);  // the older image, although five wait
  CHECK(focus.slots[0] == old && focus.steps[0] == 2);
  expect(scheduler, Stage::glance, 8, 5);  // never waits for company
}

void rows_in_ascending_order_of_step() {
  Device scheduler(latency(), same({{4, 1.0}}));
  admit(scheduler, 3);
  complete(scheduler, expect(scheduler, Stage::glance, 4, 3), false);
  const Plan two = expect(scheduler, Stage::focus, 4, 3);
  admit(scheduler, 1);
  complete(scheduler, expect(scheduler, Stage::glance, 4, 1), false);
  complete(scheduler, two, false);
  const Plan mixed = expect(scheduler, Stage::focus, 4, 4);  // the oldest first, but for the step
  CHECK(std::vector(mixed.steps.begin(), mixed.steps.end()) == std::vector<std::int32_t>({2, 3, 3, 3}));
  CHECK(index(mixed.slots[0]) == 3 && index(mixed.slots[1]) == 0);
}

/// What a record of named rows may say.
void records() {
  Device scheduler(latency(), same({{4, 1.0}}));
  const std::vector<Slot> slots = admit(scheduler, 3);
  const Plan plan = expect(scheduler, Stage::glance, 4, 3);
  const auto complete = [&](std::vector<Departure> left) { scheduler.complete(plan.id, left, Seconds{0}); };
  CHECK_THROWS(std::invalid_argument, complete({{slots[0], 2, Reason::exited}}));
  CHECK_THROWS(std::invalid_argument, complete({{slots[0], -1, Reason::exited}}));
  CHECK_THROWS(std::invalid_argument, complete({{slots[0], 1, Reason{5}}}));
  CHECK_THROWS(std::invalid_argument, complete({{slots[0], 1, Reason::exited}, {slots[0], 1, Reason::exited}}));
  CHECK_THROWS(std::invalid_argument, complete({{Slot{3}, 1, Reason::exited}}));
  CHECK_THROWS(std::invalid_argument, complete({{Slot{32}, 1, Reason::exited}}));
  CHECK_THROWS(std::invalid_argument, complete({{no_slot, 1, Reason::exited}}));
  complete({{slots[2], 0, Reason::cancelled}, {slots[0], 1, Reason::exited}});
  const std::vector<Departure> left = collect(scheduler);
  CHECK(left.size() == 2 && left[0].steps == 0 && left[0].reason == Reason::cancelled && left[1].slot == slots[0]);
  const Statistics statistics = scheduler.statistics();
  CHECK(statistics.departed[0] == 1 && statistics.departed[4] == 1);
  const auto stays = [&](const Plan& focus) { scheduler.complete(focus.id, {}, Seconds{0}); };
  stays(expect(scheduler, Stage::focus, 4, 1));
  const Plan last = expect(scheduler, Stage::focus, 4, 1);
  CHECK_THROWS(std::invalid_argument, stays(last));  // there is no step after it
}

void least_mean_time_to_the_answer() {
  // Three rows one by one: 1 + 2 + 3 = 6 row-seconds; together in a bucket of 8 at 4 s each: 12.
  Device one_by_one(latency(), same({{1, 1.0}, {8, 4.0}}));
  admit(one_by_one, 3);
  expect(one_by_one, Stage::glance, 1, 1);
  // Eight rows one by one: 36; together: 32.
  Device together(latency(), same({{1, 1.0}, {8, 4.0}}));
  admit(together, 8);
  expect(together, Stage::glance, 8, 8);
}

}  // namespace

int main() {
  oldest_first();
  rows_in_ascending_order_of_step();
  records();
  least_mean_time_to_the_answer();
}

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
  Scheduler scheduler(latency(), same({{1, 1.0}, {8, 2.0}}));
  const Slot old = admit(scheduler, 1).front();
  const Plan glance = expect(scheduler, Stage::glance, 1, 1);
  admit(scheduler, 5);
  complete(scheduler, glance, false);
  const Plan focus = expect(scheduler, Stage::focus, 1, 1);  // the older image, although five wait
  CHECK(focus.slots[0] == old && focus.steps[0] == 2);
  expect(scheduler, Stage::glance, 8, 5);  // never waits for company
}

void least_mean_time_to_the_answer() {
  // Three rows one by one: 1 + 2 + 3 = 6 row-seconds; together in a bucket of 8 at 4 s each: 12.
  Scheduler one_by_one(latency(), same({{1, 1.0}, {8, 4.0}}));
  admit(one_by_one, 3);
  expect(one_by_one, Stage::glance, 1, 1);
  // Eight rows one by one: 36; together: 32.
  Scheduler together(latency(), same({{1, 1.0}, {8, 4.0}}));
  admit(together, 8);
  expect(together, Stage::glance, 8, 8);
}

}  // namespace

int main() {
  oldest_first();
  least_mean_time_to_the_answer();
}

/// What another C++ program needs to use the scheduler: this, and find_package(gfnet_scheduler).
#include <gfnet/scheduler.hpp>
#include <iostream>

int main() {
  using namespace gfnet;
  const CostTable costs({{1, Seconds{1e-3}}, {8, Seconds{2e-3}}}, {{1, Seconds{1e-3}}, {8, Seconds{2e-3}}});
  Options options;
  options.capacity = 32;
  options.steps = 3;
  Scheduler scheduler(options, costs);
  std::vector<Slot> slots(12);
  scheduler.admit(slots, Seconds{0});
  scheduler.close();
  std::vector<Departure> departures(32);
  std::size_t left = 0;
  for (Plan plan; (plan = scheduler.plan(Seconds{0})).verdict == Verdict::launch;) {
    std::vector<Departure> all;
    for (const Slot slot : plan.slots.first(static_cast<std::size_t>(plan.count))) {
      all.push_back({slot, 1, Reason::exited});
    }
    scheduler.complete(plan.id, all, Seconds{0});
    left += scheduler.collect(departures);
  }
  std::cout << left << " images\n";
  return left == slots.size() ? 0 : 1;
}

/// Memory is taken in the constructor, in proportion to the capacity, and never again.
#include <atomic>
#include <cstdio>

#include "helpers.hpp"

extern std::atomic<std::int64_t> allocations, bytes;  // counting_new.cpp

using namespace gfnet;

namespace {

std::int64_t taken_by(std::int32_t capacity) {
  const CostTable table = same({{1, 1.0}, {16, 2.0}, {64, 4.0}});
  const std::int64_t before = bytes;
  Options options;
  options.capacity = capacity;
  Scheduler scheduler(options, table);
  return bytes - before;
}

void a_long_stream_allocates_nothing(Mode mode) {
  const CostTable table = same({{1, 1.0}, {16, 2.0}, {64, 4.0}});
  Options options;
  options.capacity = 300;
  options.steps = 5;
  options.mode = mode;
  Device scheduler(options, table);
  std::vector<Slot> slots(64);
  std::vector<Seconds> deadlines(mode == Mode::deadline ? 64 : 0, Seconds{1e9});
  std::vector<Departure> left(300);
  std::int64_t allocated = 0;
  const auto counting = [&](auto call) {
    const std::int64_t before = allocations;
    call();
    allocated += allocations - before;
  };
  std::int64_t images = 0, at_most = 0;
  for (int round = 0; images < 200000; ++round) {
    Plan plan;
    counting([&] {
      scheduler.admit(slots, Seconds{double(round)}, deadlines);
      plan = scheduler.plan(Seconds{double(round)});
    });
    if (plan.verdict != Verdict::launch) continue;
    if (round % 97 == 0 && plan.count > 1) {
      counting([&] { scheduler.fail(plan.id, Seconds{double(round)}); });
    } else {
      const auto gone = scheduler.settle(plan, [&](Slot slot) { return (index(slot) + round) % 2 == 0; });
      counting([&] { scheduler.complete(plan.id, gone, Seconds{double(round)}); });
    }
    counting([&] { images += std::int64_t(scheduler.collect(left)); });
    at_most = std::max<std::int64_t>(at_most, 300 - scheduler.occupancy().free);
  }
  CHECK(allocated == 0);
  CHECK(at_most <= 300);
}

}  // namespace

int main() {
  for (const Mode mode : {Mode::throughput, Mode::latency, Mode::deadline}) a_long_stream_allocates_nothing(mode);
  const std::int64_t small = taken_by(1000), large = taken_by(100000);
  std::printf("%.0f bytes a slot\n", double(large - small) / 99000);
  CHECK(large - small <= 99000 * 192);
}

/// Producers admit, one loop plans and completes, one collects, one watches: all at once.
#include <atomic>
#include <thread>

#include "helpers.hpp"

using namespace gfnet;

int main() {
  constexpr int producers = 3, each = 4000;
  Options options;
  options.capacity = 64;
  options.steps = 4;
  options.linger = Seconds{0};
  Device scheduler(options, same({{1, 1.0}, {4, 1.5}, {16, 3.0}}));
  std::atomic<int> collected{0};
  std::atomic<bool> over{false};

  std::vector<std::thread> threads;
  for (int producer = 0; producer < producers; ++producer) {
    threads.emplace_back([&] {
      for (int left = each; left > 0;) {
        const auto got = int(admit(scheduler, std::size_t(std::min(left, 5))).size());
        left -= got;
        if (got == 0) std::this_thread::yield();
      }
    });
  }
  std::thread collector([&] {
    while (!over) {
      collected += int(collect(scheduler).size());
      std::this_thread::yield();
    }
  });
  std::thread watcher([&] {
    while (!over) {
      const Occupancy places = scheduler.occupancy();
      CHECK(places.free + places.waiting + places.ready + places.in_flight + places.departed == 64);
      CHECK(scheduler.statistics().fill() <= 1);
      std::this_thread::yield();
    }
  });
  std::thread loop([&] {
    for (int round = 0; collected < producers * each; ++round) {
      const Plan plan = scheduler.plan(Seconds{0});
      if (plan.verdict != Verdict::launch) {
        std::this_thread::yield();
      } else if (round % 50 == 0) {
        scheduler.fault(plan, 0);
      } else {
        complete(scheduler, plan, round % 2 == 0);
      }
    }
  });
  for (std::thread& thread : threads) thread.join();
  loop.join();
  over = true;
  collector.join();
  watcher.join();
  CHECK(scheduler.statistics().admitted == producers * each);
  CHECK(scheduler.occupancy().free == 64);
}

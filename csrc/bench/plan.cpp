/// Passes planned a second of processor time: admit, plan, complete, collect, with two launches in flight, half of the
/// images leaving at every step; the imagined device's time is in it. `plan_benchmark MODE BUCKET REPEATS` prints one
/// figure per repeat.
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "gfnet/scheduler.hpp"

using namespace gfnet;

namespace {

constexpr std::int64_t passes_per_repeat = 1'000'000;

double passes_per_second(Mode mode, std::int32_t bucket) {
  const CostTable costs({{bucket, Seconds{1e-3}}}, {{bucket, Seconds{1e-3}}});
  Options options;
  options.capacity = capacity_without_waits(costs, options.in_flight);
  options.steps = 5;
  options.mode = mode;
  Scheduler scheduler(options, costs);

  std::mt19937 random(1);
  std::vector<std::uint8_t> flags(static_cast<std::size_t>(bucket) + 4096);
  for (std::uint8_t& flag : flags) flag = random() & 1;
  std::vector<Departure> left(static_cast<std::size_t>(bucket));
  std::deque<Departure> ready;  // the device's ring
  std::vector<Slot> slots(static_cast<std::size_t>(options.capacity));
  const std::vector<Seconds> deadlines(mode == Mode::deadline ? slots.size() : 0, Seconds{1e6});
  std::vector<Departure> departures(slots.size());
  std::deque<Plan> flight;

  const std::clock_t begin = std::clock();
  std::int64_t passes = 0;
  while (passes < passes_per_repeat) {
    scheduler.admit(slots, Seconds{0}, deadlines);
    Plan plan;
    while ((plan = scheduler.plan(Seconds{0})).verdict == Verdict::launch) flight.push_back(plan);
    const Plan& oldest = flight.front();
    const auto* exits = &flags[static_cast<std::size_t>(oldest.id) % 4096];
    passes += oldest.count;
    std::size_t leave = 0;
    for (std::size_t row = 0; row < static_cast<std::size_t>(oldest.count); ++row) {
      Departure image{};
      if (oldest.slots.empty()) {
        image = ready.front();
        ready.pop_front();
        ++image.steps;
      } else {
        image = {oldest.slots[row], oldest.steps[row], Reason::exited};
      }
      if (exits[row] || image.steps == options.steps) {
        left[leave++] = image;
      } else if (mode == Mode::throughput) {
        ready.push_back(image);
      }
    }
    scheduler.complete(oldest.id, std::span(left).first(leave), Seconds{0});
    flight.pop_front();
    scheduler.collect(departures);
  }
  return static_cast<double>(passes) * CLOCKS_PER_SEC / static_cast<double>(std::clock() - begin);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: plan_benchmark throughput|latency|deadline BUCKET REPEATS\n");
    return 2;
  }
  const std::string name = argv[1];
  const Mode mode = name == "latency" ? Mode::latency : name == "deadline" ? Mode::deadline : Mode::throughput;
  for (int repeat = 0; repeat < std::atoi(argv[3]); ++repeat) {
    std::printf("%.0f\n", passes_per_second(mode, std::atoi(argv[2])));
  }
}

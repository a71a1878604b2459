/// What is out of range is refused, by its name and before memory is taken; what is just within is not.
#include <atomic>
#include <limits>
#include <string>

#include "gfnet/cover.hpp"
#include "gfnet/simulation.hpp"
#include "helpers.hpp"

extern std::atomic<std::int64_t> bytes;  // counting_new.cpp

using namespace gfnet;

namespace {

constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
constexpr std::int32_t least = std::numeric_limits<std::int32_t>::min();
constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// The call throws std::invalid_argument, whose text begins with `message`, and takes less than 16 KiB.
template <class Call>
void refused(const std::string& message, Call call) {
  const std::int64_t before = bytes;
  try {
    call();
  } catch (const std::invalid_argument& error) {
    const std::string what = error.what();
    if (!what.starts_with(message)) check_failed(("expected " + message + "..., got " + what).c_str(), __FILE__, __LINE__);
    CHECK(bytes - before < 16384);
    return;
  }
  check_failed(("not refused: " + message).c_str(), __FILE__, __LINE__);
}

void tables() {
  for (const std::int32_t size : {0, -1, -5, least, limits::rows + 1, most}) {
    const std::string message = "glance: expected buckets of 1 to 262144 rows, got " + std::to_string(size);
    refused(message, [&] { same({{4, 1}, {size, 1}}); });
    refused("buckets: expected buckets of 1 to", [&] { Cover(buckets({{size, 1}}), 5, Objective::device_time); });
  }
  for (const double cost : {0.0, -1.0, nan, inf, -inf, 1.1e9}) {
    refused("glance: expected costs above 0 and up to 1e+09 seconds, got", [&] { same({{4, cost}}); });
    refused("buckets: expected costs", [&] { Cover(buckets({{4, cost}}), 5, Objective::mean_wait); });
  }
  refused("glance: expected 1 to 256 buckets, got 0", [] { same({}); });
  refused("glance: expected every size once, got 4 twice", [] { same({{4, 1}, {2, 1}, {4, 2}}); });
  std::vector<Bucket> many;
  for (std::int32_t size = 1; size <= limits::buckets; ++size) many.push_back({size, Seconds{1}});
  CHECK(CostTable(many, many).buckets(Stage::focus).size() == 256);
  many.push_back({1000, Seconds{1}});
  refused("focus: expected 1 to 256 buckets, got 257", [&] { CostTable(buckets({{1, 1}}), many); });
  for (const std::int32_t rows : {-1, least, limits::rows + 1, most}) {
    refused("rows: expected 0 to 262144", [&] { Cover(buckets({{4, 1}}), rows, Objective::device_time); });
  }
  CHECK(Cover(buckets({{4, 1e9}}), limits::rows, Objective::device_time).value(limits::rows).count() == 65536e9);
}

void options() {
  const CostTable costs = same({{1, 1}, {4, 2}});
  const auto with = [&](const std::string& message, auto change) {
    Options options{.capacity = 8, .steps = 3};
    change(options);
    refused(message, [&] { Scheduler(options, costs); });
  };
  for (const std::int32_t number : {0, -1, least, most}) {
    with("capacity: expected 1 to 262144", [&](Options& o) { o.capacity = number; });
    with("steps: expected 1 to 1024", [&](Options& o) { o.steps = number; });
    with("in_flight: expected 1 to 256", [&](Options& o) { o.in_flight = number; });
    if (number != most) with("patience: expected 1 to 2147483647", [&](Options& o) { o.patience = number; });
    refused("in_flight: expected 1 to 256", [&] { capacity_without_waits(costs, number); });
  }
  for (const double seconds : {-1.0, nan, -inf}) {
    with("linger: expected 0 to inf seconds", [&](Options& o) { o.linger = Seconds{seconds}; });
  }
  with("mode: expected 0 to 2, got 7", [](Options& o) { o.mode = Mode{7}; });

  const CostTable wide = same({{limits::rows, 1}});
  refused("capacity without waits: expected 1 to 262144, got 786431", [&] { capacity_without_waits(wide, 2); });
  refused("in_flight x the largest bucket: expected 1 to 4194304, got 4456448",
          [&] { Scheduler({.capacity = 100, .in_flight = 17}, wide); });
  CHECK(capacity_without_waits(same({{1024, 1}}), 255) == 254 * 1024 + 1023 + 1024);
  Scheduler largest({.capacity = limits::rows, .steps = limits::steps, .in_flight = 16}, wide);
  CHECK(admit(largest, limits::rows).size() == std::size_t{limits::rows});
  CHECK(expect(largest, Stage::glance, limits::rows, limits::rows).slots.size() == std::size_t{limits::rows});
}

/// A call that is refused has changed nothing.
void calls() {
  for (const double now : {nan, inf, -inf}) {
    Device scheduler({.capacity = 8, .steps = 3, .mode = Mode::deadline}, same({{1, 1}, {4, 2}}));
    const std::string message = "now: expected finite seconds, got";
    refused(message, [&] { admit(scheduler, 1, now, {1}); });
    refused("deadlines: expected finite seconds", [&] { admit(scheduler, 2, 0, {9, now}); });
    CHECK(scheduler.occupancy().free == 8);
    admit(scheduler, 1, 0, {9});
    refused(message, [&] { scheduler.plan(Seconds{now}); });
    refused(message, [&] { scheduler.expire(Seconds{now}); });
    const Plan plan = expect(scheduler, Stage::glance, 1, 1);
    refused(message, [&] { complete(scheduler, plan, true, now); });
    refused(message, [&] { scheduler.fail(plan.id, Seconds{now}); });
    const std::vector<Departure> two(2);
    refused("left: expected at most the 1 rows of the launch, got 2", [&] { scheduler.complete(plan.id, two, {}); });
    const auto record = [&](const std::string& wrong, Departure departure) {
      refused("left: expected " + wrong, [&] { scheduler.complete(plan.id, {&departure, 1}, {}); });
    };
    record("slots 0 to 7, got 8", {Slot{8}, 1, Reason::exited});
    record("slots 0 to 7, got -2147483648", {Slot{least}, 1, Reason::exited});
    record("slots of the launch, got 1", {Slot{1}, 1, Reason::exited});
    record("steps 0 to 1 of slot 0, got 2147483647", {Slot{0}, most, Reason::exited});
    record("reasons 0 to 4, got -1", {Slot{0}, 1, Reason{-1}});
    refused("id: expected a launch of two rows or more, got 0 of one row", [&] { scheduler.fail(plan.id, {}); });
    for (const std::int64_t id : {std::int64_t{-1}, std::int64_t{1}, std::numeric_limits<std::int64_t>::max()}) {
      refused("id: expected a launch in flight, got " + std::to_string(id), [&] { scheduler.fail(LaunchId{id}, {}); });
    }
    CHECK(scheduler.occupancy().in_flight == 1);
    complete(scheduler, plan, true, 1);
    CHECK(collect(scheduler).size() == 1);
  }
}

void simulations() {
  const CostTable costs = same({{1, 1}, {4, 2}});
  const auto with = [&](const std::string& message, auto change) {
    Load load{.images = 10, .exits = {0.5, 0.5}, .arrivals = Arrivals::bursts, .rate = 1};
    Machine machine;
    change(load, machine);
    refused(message, [&] { simulate(load, machine, {.capacity = 8}, costs); });
    refused(message, [&] { simulate_per_batch(load, machine, 4, 1, Seconds{0}, costs); });
  };
  with("images: expected 0 to 1073741824, got -1", [](Load& load, Machine&) { load.images = -1; });
  with("images: expected 0 to 1073741824", [](Load& l, Machine&) { l.images = std::numeric_limits<std::int64_t>::max(); });
  with("exits: expected 1 to 1024 steps, got 0", [](Load& load, Machine&) { load.exits.clear(); });
  with("exits: expected 1 to 1024 steps, got 1025", [](Load& l, Machine&) { l.exits.assign(1025, 1.0 / 1025); });
  with("exits: expected shares that sum to one, got 0.5", [](Load& load, Machine&) { load.exits = {0.25, 0.25}; });
  for (const double share : {nan, -0.5, 1.5, inf}) {
    with("exits: expected 0 to 1, got", [&](Load& load, Machine&) { load.exits = {share, 1 - share}; });
  }
  for (const double rate : {nan, 0.0, -1.0, inf, 5e-324}) {
    with("rate: expected 1e-09 to", [&](Load& load, Machine&) { load.rate = rate; });
  }
  for (const std::int32_t number : {0, -1, least}) {
    with("burst: expected 1 to", [&](Load& load, Machine&) { load.burst = number; });
    with("devices: expected 1 to 256", [&](Load&, Machine& machine) { machine.devices = number; });
    refused("batch: expected 1 to 262144",
            [&] { simulate_per_batch({.images = 1, .exits = {1.0}}, {}, number, 1, Seconds{0}, costs); });
    refused("overlap: expected 1 to 256",
            [&] { simulate_per_batch({.images = 1, .exits = {1.0}}, {}, 4, number, Seconds{0}, costs); });
    refused("capacity: expected 1 to 262144",
            [&] { simulate({.images = 1, .exits = {1.0}}, {}, {.capacity = number}, costs); });
  }
  for (const double seconds : {nan, -1.0, inf, 1.1e9}) {
    with("allowed: expected 0 to 1e+09 seconds", [&](Load& load, Machine&) { load.allowed = Seconds{seconds}; });
    with("sync: expected 0 to 1e+09 seconds", [&](Load&, Machine& machine) { machine.sync = Seconds{seconds}; });
    with("issue: expected 0 to 1e+09 seconds", [&](Load&, Machine& machine) { machine.issue = Seconds{seconds}; });
  }
  refused("linger: expected 0 to inf seconds, got nan",
          [&] { simulate_per_batch({.images = 1, .exits = {1.0}}, {}, 4, 1, Seconds{nan}, costs); });
  refused("devices x overlap x batch: expected 1 to 4194304, got 4456448",
          [&] { simulate_per_batch({.images = 1, .exits = {1.0}}, {.devices = 17}, limits::rows, 1, Seconds{0}, costs); });
  refused("devices x capacity: expected 1 to 262144, got 524288",
          [&] { simulate({.images = 1, .exits = {1.0}}, {.devices = 2}, {.capacity = limits::rows}, costs); });
  refused("devices x in_flight x the largest bucket: expected 1 to 4194304, got 16777216",
          [&] { simulate({.images = 1, .exits = {1.0}}, {.devices = 256}, {.capacity = 1}, same({{65536, 1}})); });
}

/// The slowest arrivals and the largest times there may be: every image is answered, and no time is lost to infinity.
void the_largest_times() {
  Load load{.images = 50, .exits = {0.5, 0.5}, .arrivals = Arrivals::bursts, .rate = 1e-9, .burst = most};
  load.allowed = limits::time;
  const Machine machine{.devices = 3, .sync = limits::time, .issue = limits::time};
  for (const Mode mode : {Mode::throughput, Mode::latency, Mode::deadline}) {
    const Report report = simulate(load, machine, {.capacity = 8, .mode = mode}, same({{1, 1e-9}, {4, 1e9}}));
    CHECK(report.images == 50 && report.makespan.count() < 1e30);
  }
  CHECK(simulate_per_batch(load, machine, 4, 2, Seconds{inf}, same({{4, 1e9}})).images == 50);
}

/// A cost, a sync and a deadline that meet within the clock's precision: the simulation ends.
void a_cost_below_the_clocks_precision() {
  const Load load{.images = 3, .exits = {0.5, 0.5}, .allowed = Seconds{1}};
  const Report report = simulate(load, {.sync = Seconds{2}}, {.capacity = 3, .mode = Mode::deadline, .in_flight = 1},
                                 same({{1, 1e-20}}));
  CHECK(report.images == 3 && report.worst == Seconds{1});
}

/// The caller may stop a simulation.
void polled() {
  int polls = 0;
  const Poll stop = [&] {
    if (++polls == 3) throw std::runtime_error("stop");
  };
  const Load load{.images = 10'000'000, .exits = {1.0}};
  CHECK_THROWS(std::runtime_error, simulate(load, {}, {.capacity = 64}, same({{8, 1}}), stop));
  CHECK(polls == 3);
  CHECK_THROWS(std::runtime_error, simulate_per_batch(load, {}, 8, 1, Seconds{0}, same({{8, 1}}), [&] { stop(); polls = 2; }));
}

}  // namespace

int main() {
  tables();
  options();
  calls();
  simulations();
  the_largest_times();
  a_cost_below_the_clocks_precision();
  polled();
}

#include <algorithm>
#include <map>

#include "helpers.hpp"

using namespace gfnet;

namespace {

Options options(Mode mode) {
  Options chosen;
  chosen.capacity = 64;
  chosen.steps = 3;
  chosen.mode = mode;
  return chosen;
}

/// Runs to the end a device on which a launch fails if `breaks(plan)`; every image must come out once.
template <class Breaks>
std::map<std::int32_t, Departure> run(Device& scheduler, Breaks breaks) {
  std::map<std::int32_t, Departure> out;
  for (int calls = 0;; ++calls) {
    CHECK(calls < 5000);
    const Plan plan = scheduler.plan(Seconds{0});
    if (plan.verdict == Verdict::done) break;
    CHECK(plan.verdict == Verdict::launch);
    if (breaks(plan)) {
      scheduler.fault(plan, 0);
    } else {
      complete(scheduler, plan, false);
    }
    for (const Departure& departure : collect(scheduler)) {
      CHECK(out.emplace(index(departure.slot), departure).second);
    }
  }
  return out;
}

/// One image of 32 breaks every launch it is in, from its first step on or from its second.
void a_poisoned_image_is_found_and_hurts_nobody() {
  for (const Mode mode : {Mode::throughput, Mode::latency}) {
    for (const auto& table : {same({{1, 1.0}, {4, 1.2}, {32, 2.0}}), same({{32, 2.0}})}) {
      for (const std::int32_t sound : {0, 1}) {
        Device scheduler(options(mode), table);
        const Slot poisoned = admit(scheduler, 32)[13];
        scheduler.close();
        std::map<std::int32_t, int> tries;
        const auto out = run(scheduler, [&](const Plan& plan) {
          const std::vector<Departure> rows = scheduler.rows(plan);
          const bool bad = rows[0].steps > sound && std::ranges::count(rows, poisoned, &Departure::slot) > 0;
          for (const Departure& row : rows) tries[index(row.slot)] += bad;
          return bad;
        });
        CHECK(out.size() == 32);
        for (const auto& [slot, departure] : out) {
          const bool bad = Slot{slot} == poisoned;
          CHECK(departure.reason == (bad ? Reason::error : Reason::last_step));
          CHECK(departure.steps == (bad ? sound : 3));
          CHECK(tries[slot] <= 6);  // log2(32) + 1
        }
      }
    }
  }
}

/// Two counted launches in flight fail: each is retried in halves, by itself, before all others.
void failed_counts_stay_apart() {
  Options three = options(Mode::throughput);
  three.in_flight = 3;
  Device scheduler(three, same({{1, 1.0}, {4, 1.2}, {8, 1.5}}));
  admit(scheduler, 24);
  std::vector<Plan> glances;
  for (int i = 0; i < 3; ++i) glances.push_back(expect(scheduler, Stage::glance, 8, 8));
  for (const Plan& glance : glances) complete(scheduler, glance, false);
  const Plan first = expect(scheduler, Stage::focus, 8, 8), second = expect(scheduler, Stage::focus, 8, 8);
  scheduler.fault(first, 0);
  scheduler.fault(second, 0);
  CHECK(scheduler.occupancy().ready == 24);
  scheduler.fault(expect(scheduler, Stage::focus, 4, 4), 0);
  for (const std::int32_t count : {2, 2, 4, 4, 4}) complete(scheduler, expect(scheduler, Stage::focus, 4, count), false);
  complete(scheduler, expect(scheduler, Stage::focus, 8, 8), false);
  CHECK(scheduler.statistics().failures == 3);
}

/// Everything above 4 rows is out of memory.
void out_of_memory_goes_on_in_smaller_buckets() {
  Device scheduler(options(Mode::throughput), same({{1, 1.0}, {4, 1.2}, {16, 1.5}, {32, 2.0}}));
  admit(scheduler, 64);
  scheduler.close();
  const auto out = run(scheduler, [](const Plan& plan) { return plan.bucket > 4; });
  CHECK(out.size() == 64);
  for (const auto& [slot, departure] : out) CHECK(departure.reason == Reason::last_step);
}

/// A retry that cannot end in time is not started.
void a_failure_near_the_deadline() {
  Device scheduler(options(Mode::deadline), same({{1, 1.0}, {4, 2.0}}));
  admit(scheduler, 4, 0, std::vector<double>(4, 3.0));
  const Plan plan = expect(scheduler, Stage::glance, 4, 4, 0);
  scheduler.fail(plan.id, Seconds{2.5});
  CHECK(verdict(scheduler, 2.5) == Verdict::starved);
  CHECK(collect(scheduler).size() == 4);
  CHECK(scheduler.occupancy().free == 64);
}

void misuse_is_refused() {
  const CostTable table = same({{4, 1.0}});
  Device scheduler(options(Mode::throughput), table);
  admit(scheduler, 4);
  const Plan plan = expect(scheduler, Stage::glance, 4, 4);
  CHECK_THROWS(std::invalid_argument, scheduler.complete(LaunchId{99}, {}, Seconds{0}));
  CHECK_THROWS(std::invalid_argument, scheduler.complete(LaunchId{-1}, {}, Seconds{0}));
  CHECK_THROWS(std::invalid_argument, scheduler.complete(plan.id, std::vector<Departure>(5), Seconds{0}));
  complete(scheduler, plan, true);
  CHECK_THROWS(std::invalid_argument, complete(scheduler, plan, true));
  CHECK_THROWS(std::invalid_argument, scheduler.fail(plan.id, Seconds{0}));
  admit(scheduler, 1);
  scheduler.close();
  const Plan alone = expect(scheduler, Stage::glance, 4, 1);
  CHECK_THROWS(std::invalid_argument, scheduler.fail(alone.id, Seconds{0}));
  scheduler.fault(alone, 0);
  CHECK(scheduler.statistics().departed[static_cast<int>(Reason::error)] == 1);

  const auto with = [](auto change) {
    Options bad = options(Mode::throughput);
    change(bad);
    return bad;
  };
  CHECK_THROWS(std::invalid_argument, Scheduler(with([](Options& o) { o.capacity = 0; }), table));
  CHECK_THROWS(std::invalid_argument, Scheduler(with([](Options& o) { o.steps = 0; }), table));
  CHECK_THROWS(std::invalid_argument, Scheduler(with([](Options& o) { o.in_flight = 0; }), table));
  CHECK_THROWS(std::invalid_argument, Scheduler(with([](Options& o) { o.patience = 0; }), table));
  CHECK_THROWS(std::invalid_argument, Scheduler(with([](Options& o) { o.linger = Seconds{-1}; }), table));
}

}  // namespace

int main() {
  a_poisoned_image_is_found_and_hurts_nobody();
  failed_counts_stay_apart();
  out_of_memory_goes_on_in_smaller_buckets();
  a_failure_near_the_deadline();
  misuse_is_refused();
}

#include <deque>
#include <random>

#include "helpers.hpp"

using namespace gfnet;

namespace {

const CostTable table = same({{1, 1.0}, {4, 1.6}, {16, 3.0}});

Options throughput(std::int32_t capacity, std::int32_t in_flight = 2) {
  Options options;
  options.capacity = capacity;
  options.steps = 3;
  options.in_flight = in_flight;
  options.linger = Seconds{1e9};
  return options;
}

void full_batches_and_focus_first() {
  Scheduler scheduler(throughput(64), table);
  CHECK(verdict(scheduler) == Verdict::starved);
  CHECK(admit(scheduler, 100).size() == 64);  // capacity-bounded
  CHECK(admit(scheduler, 1).empty());
  const Plan first = expect(scheduler, Stage::glance, 16, 16);
  const Plan second = expect(scheduler, Stage::glance, 16, 16);  // without the outcome of the first
  CHECK(verdict(scheduler) == Verdict::wait);                    // two in flight
  complete(scheduler, second, false);                            // out of order
  expect(scheduler, Stage::focus, 16, 16);                       // ready before waiting
  complete(scheduler, first, true);
  CHECK(collect(scheduler).size() == 16);
  expect(scheduler, Stage::glance, 16, 16);
}

void steps_merge_in_ascending_order() {
  Scheduler scheduler(throughput(64, 1), table);
  admit(scheduler, 16);
  complete(scheduler, expect(scheduler, Stage::glance, 16, 16), false);
  admit(scheduler, 16);
  const Plan focus = expect(scheduler, Stage::focus, 16, 16);
  std::vector<std::uint8_t> half(16);
  for (std::size_t i = 0; i < 8; ++i) half[i] = 1;
  scheduler.complete(focus.id, half, Seconds{0});
  complete(scheduler, expect(scheduler, Stage::glance, 16, 16), false);
  const Plan mixed = expect(scheduler, Stage::focus, 16, 16);
  CHECK(std::vector(mixed.steps.begin(), mixed.steps.end()) ==
        std::vector<std::int32_t>({2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3}));
}

void drain_covers_the_rest_at_least_cost() {
  Scheduler scheduler(throughput(64), table);
  admit(scheduler, 5);
  CHECK(verdict(scheduler) == Verdict::starved);  // wants company
  scheduler.close();
  CHECK_THROWS(std::logic_error, admit(scheduler, 1));
  const Plan one = expect(scheduler, Stage::glance, 4, 4);  // 1.6 + 1.0 < 3.0
  const Plan two = expect(scheduler, Stage::glance, 1, 1);
  complete(scheduler, one, false);
  CHECK(verdict(scheduler) == Verdict::wait);  // the fifth may join
  CHECK(scheduler.statistics().waits == 1);
  complete(scheduler, two, false);
  complete(scheduler, expect(scheduler, Stage::focus, 4, 4), true);
  complete(scheduler, expect(scheduler, Stage::focus, 1, 1), true);
  CHECK(verdict(scheduler) == Verdict::done);
  CHECK(collect(scheduler).size() == 5);
  scheduler.open();
  CHECK(admit(scheduler, 1).size() == 1);
}

void an_idle_device_lingers_then_pads() {
  Options options = throughput(64);
  options.linger = Seconds{2};
  Scheduler scheduler(options, table);
  admit(scheduler, 3, 10.0);
  const Plan pause = scheduler.plan(Seconds{11});
  CHECK(pause.verdict == Verdict::starved && pause.wake_at == Seconds{12});
  const Plan padded = expect(scheduler, Stage::glance, 4, 3, 12.0);
  CHECK(padded.slots[3] == no_slot && padded.steps[3] == 0);
  CHECK(scheduler.statistics().padded_rows == 0);  // counted when it has run
  complete(scheduler, padded, true, 13);
  CHECK(scheduler.statistics().padded_rows == 1);
}

void a_small_arena_pads_rather_than_hangs() {
  for (std::int32_t capacity = 1; capacity < 24; ++capacity) {
    Scheduler scheduler(throughput(capacity), table);
    int images = 0, calls = 0;
    while (images < 100) {
      CHECK(++calls < 5000);
      admit(scheduler, 100);
      const Plan plan = scheduler.plan(Seconds{0});
      CHECK(plan.verdict == Verdict::launch || plan.verdict == Verdict::wait);
      if (plan.verdict == Verdict::launch) complete(scheduler, plan, calls % 3 == 0);
      images += int(collect(scheduler).size());
    }
  }
}

/// Each outcome comes back only when the launch after it has long been issued.
void never_waits_while_the_stream_lasts() {
  std::mt19937 random(1);
  for (const std::int32_t in_flight : {2, 3, 4}) {
    Scheduler scheduler(throughput(capacity_without_waits(table, in_flight), in_flight), table);
    std::deque<Plan> flight;
    for (int round = 0; round < 5000; ++round) {
      admit(scheduler, 1000);
      Plan plan;
      while ((plan = scheduler.plan(Seconds{0})).verdict == Verdict::launch) flight.push_back(plan);
      CHECK(std::int32_t(flight.size()) == in_flight);
      std::vector<std::uint8_t> exits(16);
      for (auto& exit : exits) exit = random() % 100 < 46;
      scheduler.complete(flight.front().id, exits, Seconds{0});
      flight.pop_front();
      collect(scheduler);
    }
    CHECK(scheduler.statistics().waits == 0);
    CHECK(scheduler.statistics().padded_rows == 0);
  }
}

/// One image stays at every step and all others leave at once: no focus batch ever fills by itself.
void nobody_starves() {
  Options options = throughput(64);
  options.patience = 10;
  Scheduler scheduler(options, table);
  const Slot stubborn = admit(scheduler, 1).front();
  std::int32_t since = 0, steps = 0;
  for (int launches = 0; steps < 3; ++launches) {
    CHECK(launches < 100);
    admit(scheduler, 64);
    const Plan plan = scheduler.plan(Seconds{0});
    std::vector<std::uint8_t> exits(static_cast<std::size_t>(plan.count), 1);
    ++since;
    for (std::size_t row = 0; row < exits.size(); ++row) {
      if (plan.slots[row] != stubborn) continue;
      exits[row] = 0;
      CHECK(since <= options.patience + 1);
      since = 0;
      ++steps;
    }
    scheduler.complete(plan.id, exits, Seconds{0});
    collect(scheduler);
  }
}

void fewer_steps_take_effect_at_once() {
  Scheduler scheduler(throughput(64), table);
  admit(scheduler, 32);
  const Plan first = expect(scheduler, Stage::glance, 16, 16);
  const Plan second = expect(scheduler, Stage::glance, 16, 16);
  complete(scheduler, first, false);
  scheduler.set_max_steps(1);
  const std::vector<Departure> left = collect(scheduler);
  CHECK(left.size() == 16);
  CHECK(left[0].steps == 1 && left[0].reason == Reason::last_step);
  complete(scheduler, second, false);
  CHECK(collect(scheduler).size() == 16);
  CHECK_THROWS(std::invalid_argument, scheduler.set_max_steps(0));
  CHECK_THROWS(std::invalid_argument, scheduler.set_max_steps(4));
}

}  // namespace

int main() {
  full_batches_and_focus_first();
  steps_merge_in_ascending_order();
  drain_covers_the_rest_at_least_cost();
  an_idle_device_lingers_then_pads();
  a_small_arena_pads_rather_than_hangs();
  never_waits_while_the_stream_lasts();
  nobody_starves();
  fewer_steps_take_effect_at_once();
}

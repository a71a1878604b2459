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
  Device scheduler(throughput(64), table);
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

void focus_launches_are_counted() {
  Device scheduler(throughput(64, 1), table);
  const std::vector<Slot> slots = admit(scheduler, 16);
  complete(scheduler, expect(scheduler, Stage::glance, 16, 16), false);
  admit(scheduler, 16);
  const Plan focus = expect(scheduler, Stage::focus, 16, 16);
  CHECK(focus.slots.empty() && focus.steps.empty());
  scheduler.end(focus, [](Slot slot) { return index(slot) % 2 == 0; });
  const std::vector<Departure> left = collect(scheduler);
  CHECK(left.size() == 8 && left[1].slot == Slot{2} && left[1].steps == 2 && left[1].reason == Reason::exited);
  complete(scheduler, expect(scheduler, Stage::glance, 16, 16), false);
  const Plan mixed = expect(scheduler, Stage::focus, 16, 16);  // eight at step 3, eight at step 2
  complete(scheduler, mixed, false);
  CHECK(collect(scheduler).size() == 8);
  CHECK(scheduler.occupancy().ready == 16);
}

/// Rows are known by number alone: whom the record names among those in flight or ready is the device's to say.
void a_record_may_name_any_that_is_ready() {
  Scheduler scheduler(throughput(64, 1), table);
  const std::vector<Slot> slots = admit(scheduler, 20);
  scheduler.complete(expect(scheduler, Stage::glance, 16, 16).id, {}, Seconds{0});
  const Plan focus = expect(scheduler, Stage::focus, 16, 16);
  const auto complete = [&](std::vector<Departure> left) { scheduler.complete(focus.id, left, Seconds{0}); };
  CHECK_THROWS(std::invalid_argument, complete({{slots[17], 2, Reason::exited}}));  // has not taken the glance
  CHECK_THROWS(std::invalid_argument, complete({{slots[3], 4, Reason::exited}}));
  CHECK_THROWS(std::invalid_argument, complete({{slots[3], -1, Reason::exited}}));
  complete({{slots[3], 3, Reason::cancelled}, {slots[1], 0, Reason::deadline}});
  const std::vector<Departure> left = collect(scheduler);
  CHECK(left[0].slot == slots[3] && left[0].steps == 3 && left[0].reason == Reason::cancelled);
  CHECK(left[1].slot == slots[1] && left[1].steps == 0 && left[1].reason == Reason::deadline);
  CHECK(scheduler.occupancy().ready == 14);
  scheduler.close();
  scheduler.complete(expect(scheduler, Stage::glance, 4, 4).id, {}, Seconds{0});
  const Plan next = expect(scheduler, Stage::focus, 16, 16);
  const std::vector<Departure> gone{{slots[3], 3, Reason::exited}};
  CHECK_THROWS(std::invalid_argument, scheduler.complete(next.id, gone, Seconds{0}));
}

void drain_covers_the_rest_at_least_cost() {
  Device scheduler(throughput(64), table);
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
  Device scheduler(options, table);
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
    Device scheduler(throughput(capacity), table);
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
    Device scheduler(throughput(capacity_without_waits(table, in_flight), in_flight), table);
    std::deque<Plan> flight;
    for (int round = 0; round < 5000; ++round) {
      admit(scheduler, 1000);
      Plan plan;
      while ((plan = scheduler.plan(Seconds{0})).verdict == Verdict::launch) flight.push_back(plan);
      CHECK(std::int32_t(flight.size()) == in_flight);
      scheduler.end(flight.front(), [&](Slot) { return random() % 100 < 46; });
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
  Device scheduler(options, table);
  const Slot stubborn = admit(scheduler, 1).front();
  std::int32_t since = 0, steps = 0;
  for (int launches = 0; steps < 3; ++launches) {
    CHECK(launches < 100);
    admit(scheduler, 64);
    const Plan plan = scheduler.plan(Seconds{0});
    ++since;
    for (const Departure& row : scheduler.rows(plan)) {
      if (row.slot != stubborn) continue;
      CHECK(since <= options.patience + 1);
      since = 0;
      ++steps;
    }
    scheduler.end(plan, [&](Slot slot) { return slot != stubborn; });
    collect(scheduler);
  }
}

}  // namespace

int main() {
  full_batches_and_focus_first();
  focus_launches_are_counted();
  a_record_may_name_any_that_is_ready();
  drain_covers_the_rest_at_least_cost();
  an_idle_device_lingers_then_pads();
  a_small_arena_pads_rather_than_hangs();
  never_waits_while_the_stream_lasts();
  nobody_starves();
}

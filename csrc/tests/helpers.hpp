/// Short forms for tests: tables, admission, and a device that completes what it is given.
#pragma once

#include <deque>
#include <initializer_list>
#include <utility>
#include <vector>

#include "check.hpp"
#include "gfnet/scheduler.hpp"

namespace gfnet {

using Rows = std::initializer_list<std::pair<std::int32_t, double>>;

inline std::vector<Bucket> buckets(Rows rows) {
  std::vector<Bucket> all;
  for (const auto& [size, cost] : rows) all.push_back({size, Seconds{cost}});
  return all;
}

inline CostTable same(Rows rows) { return CostTable(buckets(rows), buckets(rows)); }

inline std::vector<Slot> admit(Scheduler& scheduler, std::size_t n, double now = 0,
                               const std::vector<double>& deadlines = {}) {
  std::vector<Slot> slots(n);
  const std::vector<Seconds> times(deadlines.begin(), deadlines.end());
  slots.resize(scheduler.admit(slots, Seconds{now}, times));
  return slots;
}

/// A scheduler and its device, whose ring holds what counted launches take.
class Device : public Scheduler {
 public:
  Device(const Options& options, const CostTable& costs) : Scheduler(options, costs), options_(options) {}

  /// The rows of a launch that ends next, with the steps that they have taken then.
  std::vector<Departure> rows(const Plan& plan) const {
    std::vector<Departure> all;
    for (std::size_t row = 0; row < static_cast<std::size_t>(plan.count); ++row) {
      if (plan.slots.empty()) {
        all.push_back({ring_[row].slot, ring_[row].steps + 1, Reason::exited});
      } else {
        all.push_back({plan.slots[row], plan.steps[row], Reason::exited});
      }
    }
    return all;
  }

  /// What the launch does on the device; those leave for which `leaves(slot)` holds, and those that took the last step.
  template <class Leaves>
  std::vector<Departure> settle(const Plan& plan, Leaves leaves) {
    std::vector<Departure> left, stay;
    for (Departure image : rows(plan)) {
      const bool exits = leaves(image.slot);
      image.reason = exits ? Reason::exited : Reason::last_step;
      (exits || image.steps == options_.steps ? left : stay).push_back(image);
    }
    take(plan);
    ring_.insert(ring_.end(), stay.begin(), stay.end());
    return left;
  }

  template <class Leaves>
  void end(const Plan& plan, Leaves leaves, double now = 0) {
    complete(plan.id, settle(plan, leaves), Seconds{now});
  }

  /// The launch fails.
  void fault(const Plan& plan, double now) {
    if (plan.count > 1) return fail(plan.id, Seconds{now});
    Departure alone = rows(plan).front();
    --alone.steps;
    alone.reason = Reason::error;
    take(plan);
    complete(plan.id, {&alone, 1}, Seconds{now});
  }

 private:
  void take(const Plan& plan) {
    if (plan.slots.empty()) ring_.erase(ring_.begin(), ring_.begin() + plan.count);
  }

  Options options_;
  std::deque<Departure> ring_;
};

inline void complete(Device& device, const Plan& plan, bool exit, double now = 0) {
  device.end(plan, [&](Slot) { return exit; }, now);
}

inline std::vector<Departure> collect(Scheduler& scheduler) {
  std::vector<Departure> left(static_cast<std::size_t>(scheduler.capacity()));
  left.resize(scheduler.collect(left));
  return left;
}

/// Plans and expects a launch of `count` rows of `stage` in a bucket of `bucket`.
inline Plan expect(Scheduler& scheduler, Stage stage, std::int32_t bucket, std::int32_t count, double now = 0) {
  const Plan plan = scheduler.plan(Seconds{now});
  CHECK(plan.verdict == Verdict::launch);
  CHECK(plan.stage == stage);
  CHECK(plan.bucket == bucket);
  CHECK(plan.count == count);
  return plan;
}

inline Verdict verdict(Scheduler& scheduler, double now = 0) { return scheduler.plan(Seconds{now}).verdict; }

}  // namespace gfnet

/// Short forms for tests: tables, admission, and a device that completes what it is given.
#pragma once

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

inline void complete(Scheduler& scheduler, const Plan& plan, bool exit, double now = 0) {
  scheduler.complete(plan.id, std::vector<std::uint8_t>(static_cast<std::size_t>(plan.count), exit ? 1 : 0), Seconds{now});
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

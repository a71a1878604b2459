#include "gfnet/cost_table.hpp"

#include <algorithm>
#include <string>

#include "checks.hpp"

namespace gfnet {

std::vector<Bucket> checked(std::vector<Bucket> buckets, const std::string& name) {
  if (buckets.empty() || buckets.size() > static_cast<std::size_t>(limits::buckets)) {
    refuse(name, "1 to " + text(limits::buckets) + " buckets", text(buckets.size()));
  }
  std::ranges::sort(buckets, {}, &Bucket::size);
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const auto [size, cost] = buckets[i];
    if (size < 1 || size > limits::rows) refuse(name, "buckets of 1 to " + text(limits::rows) + " rows", text(size));
    if (i > 0 && size == buckets[i - 1].size) refuse(name, "every size once", text(size) + " twice");
    if (!(cost.count() > 0 && cost <= limits::time)) {
      refuse(name, "costs above 0 and up to " + text(limits::time.count()) + " seconds",
             text(cost.count()) + " for " + text(size) + " rows");
    }
  }
  return buckets;
}

CostTable::CostTable(std::vector<Bucket> glance, std::vector<Bucket> focus)
    : glance_(checked(std::move(glance), "glance")), focus_(checked(std::move(focus), "focus")) {}

const Bucket& CostTable::best_rate(Stage stage, std::int32_t rows) const {
  const auto all = buckets(stage);
  const Bucket* best = &all.front();
  for (const Bucket& bucket : all) {
    if (bucket.size <= rows && bucket.cost / bucket.size <= best->cost / best->size) best = &bucket;
  }
  return *best;
}

const Bucket& CostTable::cheapest_holding(Stage stage, std::int32_t rows) const {
  const Bucket* best = nullptr;
  for (const Bucket& bucket : buckets(stage)) {
    if (bucket.size >= rows && (best == nullptr || bucket.cost < best->cost)) best = &bucket;
  }
  return best != nullptr ? *best : buckets(stage).back();
}

const Bucket& CostTable::smallest_holding(Stage stage, std::int32_t rows) const {
  const auto all = buckets(stage);
  const auto found = std::ranges::lower_bound(all, rows, {}, &Bucket::size);
  return found != all.end() ? *found : all.back();
}

Seconds CostTable::quickest(Stage stage) const {
  return std::ranges::min(buckets(stage), {}, &Bucket::cost).cost;
}

}  // namespace gfnet

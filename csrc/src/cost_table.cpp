#include "gfnet/cost_table.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace gfnet {
namespace {

std::vector<Bucket> checked(std::vector<Bucket> buckets, const std::string& stage) {
  if (buckets.empty()) throw std::invalid_argument("the " + stage + " stage needs at least one bucket, got none");
  std::ranges::sort(buckets, {}, &Bucket::size);
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const std::string which = stage + " bucket " + std::to_string(buckets[i].size);
    if (buckets[i].size < 1) throw std::invalid_argument(which + ": a bucket has at least one row");
    if (i > 0 && buckets[i].size == buckets[i - 1].size) throw std::invalid_argument(which + " is there twice");
    const double cost = buckets[i].cost.count();
    if (!std::isfinite(cost) || cost <= 0) {
      throw std::invalid_argument(which + ": expected a positive, finite cost in seconds, got " + std::to_string(cost));
    }
  }
  return buckets;
}

}  // namespace

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

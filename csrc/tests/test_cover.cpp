/// Bucket choice by dynamic programming, against every sequence of buckets there is.
#include <cmath>
#include <random>

#include "gfnet/cover.hpp"
#include "helpers.hpp"

using namespace gfnet;

namespace {

double brute_force(std::span<const Bucket> all, std::int32_t rows, Objective objective) {
  if (rows <= 0) return 0;
  double best = 1e300;
  for (const Bucket& bucket : all) {
    const double delayed = objective == Objective::mean_wait ? rows : 1;
    best = std::min(best, delayed * bucket.cost.count() + brute_force(all, rows - bucket.size, objective));
  }
  return best;
}

void equals_brute_force() {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> real(0.1, 1.0);
  for (int table = 0; table < 300; ++table) {
    std::vector<Bucket> all;
    std::int32_t size = 0;
    for (unsigned i = 0; i <= random() % 4; ++i) {
      size += 1 + std::int32_t(random() % 6);
      all.push_back({size, Seconds{real(random) * (random() % 2 ? size : 1)}});
    }
    for (const Objective objective : {Objective::device_time, Objective::mean_wait}) {
      const std::int32_t rows = 12;
      const Cover cover(all, rows, objective);
      for (std::int32_t r = 0; r <= rows; ++r) {
        CHECK(std::abs(cover.value(r).count() - brute_force(all, r, objective)) < 1e-9);
        double walked = 0;  // following first() gives that value
        for (std::int32_t left = r; left > 0; left -= cover.first(left).size) {
          walked += cover.first(left).cost.count() * (objective == Objective::mean_wait ? left : 1);
        }
        CHECK(std::abs(cover.value(r).count() - walked) < 1e-9);
      }
    }
  }
}

void known_cases() {
  const Cover cheap(buckets({{4, 3}, {16, 5}}), 100, Objective::device_time);
  CHECK(cheap.first(3).size == 4);
  CHECK(cheap.first(5).size == 16);  // 5 < 3 + 3
  CHECK(cheap.value(20).count() == 8);
  // The mean wait prefers a quick small launch first where the total does not.
  const auto table = buckets({{1, 1}, {8, 4}});
  CHECK(Cover(table, 5, Objective::device_time).first(4).size == 8);
  CHECK(Cover(table, 5, Objective::mean_wait).first(3).size == 1);
}

void costs_and_rates() {
  const CostTable costs(buckets({{16, 5}, {4, 3}}), buckets({{4, 6}, {8, 4}, {16, 8}}));
  CHECK(costs.buckets(Stage::glance)[0].size == 4);  // sorted
  CHECK(costs.best_rate(Stage::focus, 100).size == 16);
  CHECK(costs.best_rate(Stage::focus, 15).size == 8);
  CHECK(costs.best_rate(Stage::focus, 1).size == 4);
  CHECK(costs.cheapest_holding(Stage::focus, 3).size == 8);
  CHECK(costs.smallest_holding(Stage::focus, 3).size == 4);
  CHECK(costs.smallest_holding(Stage::focus, 99).size == 16);
  CHECK(costs.quickest(Stage::focus) == Seconds{4});
  CHECK_THROWS(std::invalid_argument, same({}));
  CHECK_THROWS(std::invalid_argument, same({{0, 1}}));
  CHECK_THROWS(std::invalid_argument, same({{4, 1}, {4, 2}}));
  CHECK_THROWS(std::invalid_argument, same({{4, 0}}));
  CHECK_THROWS(std::invalid_argument, same({{4, std::nan("")}}));
  const auto unsorted = buckets({{16, 5}, {4, 3}});
  CHECK(Cover(unsorted, 5, Objective::device_time).first(5).size == 16);
}

}  // namespace

int main() {
  equals_brute_force();
  known_cases();
  costs_and_rates();
}

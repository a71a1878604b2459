/// How to cut a number of rows into launches, by dynamic programming over the number of rows that remain.
#pragma once

#include <span>
#include <vector>

#include "gfnet/cost_table.hpp"

namespace gfnet {

/// What a cover keeps small.
enum class Objective : std::uint8_t {
  device_time,  ///< the sum of the launches' costs: the cheapest multiset of buckets that holds all the rows
  mean_wait,    ///< the sum over the rows of the time until their launch ends: each launch delays all that remain
};

/// The best first bucket for every number of rows from 1 to `rows`. Two arrays of that length, and a lookup per plan.
///
/// Example: buckets {size 4, cost 3} and {size 16, cost 5}. Five rows: device_time takes 16 alone (5 < 3 + 3).
/// Nine rows: 16 alone. Three rows: 4 alone.
class Cover {
 public:
  /// Takes the buckets in any order. Throws std::invalid_argument for what a CostTable refuses, and for a number of
  /// rows that is negative or above limits::rows.
  Cover(std::span<const Bucket> buckets, std::int32_t rows, Objective objective);

  /// The bucket to launch first when `rows` remain, 1 <= rows <= the constructor's.
  const Bucket& first(std::int32_t rows) const { return buckets_[choice_[static_cast<std::size_t>(rows)]]; }

  /// What the best cover of `rows` rows comes to, in seconds (mean_wait: row-seconds).
  Seconds value(std::int32_t rows) const { return value_[static_cast<std::size_t>(rows)]; }

 private:
  std::vector<Bucket> buckets_;
  std::vector<std::uint16_t> choice_;
  std::vector<Seconds> value_;
};

}  // namespace gfnet

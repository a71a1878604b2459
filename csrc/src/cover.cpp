#include "gfnet/cover.hpp"

#include <algorithm>
#include <limits>

#include "checks.hpp"

namespace gfnet {

Cover::Cover(std::span<const Bucket> buckets, std::int32_t rows, Objective objective)
    : buckets_(checked({buckets.begin(), buckets.end()}, "buckets")) {
  check_range("rows", rows, 0, limits::rows);
  choice_.resize(static_cast<std::size_t>(rows) + 1);
  value_.resize(static_cast<std::size_t>(rows) + 1);
  for (std::int32_t remaining = 1; remaining <= rows; ++remaining) {
    const auto at = static_cast<std::size_t>(remaining);
    const double delayed = objective == Objective::mean_wait ? remaining : 1;
    value_[at] = Seconds{std::numeric_limits<double>::infinity()};
    for (std::size_t b = buckets_.size(); b-- > 0;) {  // largest first, so that it wins ties
      const std::int32_t taken = std::min(buckets_[b].size, remaining);
      const Seconds value = delayed * buckets_[b].cost + value_[static_cast<std::size_t>(remaining - taken)];
      if (value < value_[at]) {
        value_[at] = value;
        choice_[at] = static_cast<std::uint16_t>(b);
      }
    }
  }
}

}  // namespace gfnet

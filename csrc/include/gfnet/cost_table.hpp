/// What a launch costs: the measured time of each stage at each batch size it is prepared for.
#pragma once

#include <span>
#include <vector>

#include "gfnet/types.hpp"

namespace gfnet {

/// A batch size that a stage is prepared for, and the time one launch of it takes however many rows are padding.
struct Bucket {
  std::int32_t size;
  Seconds cost;
};

/// t(stage, bucket). The costs need not rise with the size: measured ones do not always.
class CostTable {
 public:
  /// Takes the buckets in any order. Throws std::invalid_argument if a stage has none or more than limits::buckets, a
  /// size is below 1, above limits::rows or there twice, or a cost is not positive or above limits::time.
  CostTable(std::vector<Bucket> glance, std::vector<Bucket> focus);

  /// The stage's buckets, smallest first.
  std::span<const Bucket> buckets(Stage stage) const {
    return stage == Stage::glance ? glance_ : focus_;
  }

  /// The bucket with the least time per row among those of at most `rows` rows, the larger one on a tie; the
  /// smallest bucket if all are larger than that.
  const Bucket& best_rate(Stage stage, std::int32_t rows) const;

  /// The cheapest bucket that holds `rows` rows; the largest bucket if none does.
  const Bucket& cheapest_holding(Stage stage, std::int32_t rows) const;

  /// The smallest bucket that holds `rows` rows; the largest bucket if none does.
  const Bucket& smallest_holding(Stage stage, std::int32_t rows) const;

  /// The time of the quickest launch of a stage.
  Seconds quickest(Stage stage) const;

 private:
  std::vector<Bucket> glance_;
  std::vector<Bucket> focus_;
};

}  // namespace gfnet

/// Which positions of an axis make which positions of a resized one.
#pragma once

#include <cstdint>
#include <vector>

namespace gfnet::pixels {

/// Position i of `size` is made of `taps` positions from `first[i]` on, those outside meaning the nearest inside, with
/// the weights from `weights[i * taps]` on. Its memory is taken once, so that filling it again cannot fail.
class Axis {
 public:
  Axis(std::int64_t size, int taps);
  void fill(std::int64_t length);

  std::vector<std::int64_t> first;
  std::vector<float> weights;

 private:
  std::int64_t length_ = 0;
};

}  // namespace gfnet::pixels

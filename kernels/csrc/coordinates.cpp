/// Compiled without contraction: position - whole has to be of the rounded product, as it is everywhere else.
#include "coordinates.hpp"

#include <algorithm>
#include <cmath>

namespace gfnet::pixels {

namespace {

/// Of neighbours at distance d: linear for two, the cubic with a = -0.75 for four.
float weight(float d, int taps) {
  if (taps == 2) return 1.0F - d;
  if (d <= 1.0F) return (1.25F * d - 2.25F) * d * d + 1.0F;
  return ((-0.75F * d + 3.75F) * d - 6.0F) * d + 3.0F;
}

}  // namespace

Axis::Axis(std::int64_t size, int taps)
    : first(static_cast<std::size_t>(size)), weights(static_cast<std::size_t>(size * taps)) {}

void Axis::fill(std::int64_t length) {
  if (length == length_) return;
  length_ = length;
  const std::size_t size = first.size(), taps = weights.size() / size;
  const float step = static_cast<float>(length - 1) / static_cast<float>(std::max<std::size_t>(1, size - 1));
  for (std::size_t i = 0; i < size; ++i) {
    const float position = step * static_cast<float>(size > 1 ? i : 0);
    const float whole = std::floor(position), fraction = position - whole;
    const auto before = static_cast<std::int64_t>(taps / 2 - 1);
    // Beyond the end all taps are the last position; float32 may round a long axis further than that.
    first[i] = std::min(static_cast<std::int64_t>(whole), length + 1) - before;
    for (std::size_t j = 0; j < taps; ++j) {
      const float offset = static_cast<float>(j) - static_cast<float>(before);
      weights[i * taps + j] = weight(std::fabs(fraction - offset), static_cast<int>(taps));
    }
  }
}

}  // namespace gfnet::pixels

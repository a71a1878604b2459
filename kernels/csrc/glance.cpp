#include <algorithm>
#include <memory>
#include <vector>

#include "coordinates.hpp"
#include "lines.hpp"
#include "threads.hpp"

namespace gfnet::pixels {

namespace {

constexpr std::int64_t BEFORE = 1, AFTER = 4;  // pixels around a line that repeat its ends: where taps may lie

/// Four values in one register, be it one of a pixel's three and the next pixel's first.
using Four = float __attribute__((vector_size(16)));

GFNET_INLINE Four load(const float* from) {
  Four four;
  std::memcpy(&four, from, sizeof four);
  return four;
}

/// What one worker needs: its axes and its lines, all of it taken before the work begins.
struct Worker {
  Axis rows, columns;
  std::unique_ptr<float[]> memory;
};

/// How many floats the lines of a worker take, of images `width` pixels wide.
std::size_t extent(std::int64_t width, std::int64_t size, int taps) {
  return static_cast<std::size_t>((taps + 1) * 3 * width + 3 * (BEFORE + width + AFTER) + 1 + 3 * size + 1);
}

/// Weighted sums of lines.
template <int taps>
GFNET_INLINE void down(const float* const (&lines)[taps], const float* weights, float* __restrict target,
                       std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    float sum = lines[0][i] * weights[0];
    for (int j = 1; j < taps; ++j) sum += lines[j][i] * weights[j];
    target[i] = sum;
  }
}

/// Weighted sums of neighbouring pixels, normalised; a value more than the line has is written.
template <int taps>
GFNET_INLINE void across(const float* __restrict line, const Axis& axis, Four scale, Four bias,
                         float* __restrict target, std::int64_t size) {
  const std::int64_t* first = axis.first.data();
  const float* weights = axis.weights.data();
  for (std::int64_t x = 0; x < size; ++x) {
    const float *pixel = line + 3 * first[x], *weight = weights + x * taps;
    Four sum = load(pixel) * weight[0];
    for (int j = 1; j < taps; ++j) sum += load(pixel + 3 * j) * weight[j];
    sum = sum * scale + bias;
    std::memcpy(target + 3 * x, &sum, sizeof sum);
  }
}

template <int taps>
GFNET_INLINE void resize(const Image& image, const Call& call, Worker& worker, std::byte* out, Four scale, Four bias) {
  const Type type = call.images.type;
  const std::int64_t size = call.size, height = image.height, width = image.width, values = 3 * width;
  const bool planar = image.planar();
  worker.rows.fill(height);
  worker.columns.fill(width);
  float *ring = worker.memory.get(), *planes = ring + taps * values;
  float *line = planes + values + 3 * BEFORE, *finished = line + 3 * (width + AFTER) + 1;
  std::int64_t held[taps];
  std::ranges::fill(held, -1);
  for (std::int64_t y = 0; y < size; ++y) {
    const float* lines[taps];
    for (int j = 0; j < taps; ++j) {
      const std::int64_t at = std::clamp<std::int64_t>(worker.rows.first.data()[y] + j, 0, height - 1);
      float* place = ring + at % taps * values;  // taps are neighbours, so no two of them have one place
      if (held[at % taps] != at) read_pixels(type, image, at, 0, width, planar, place);
      held[at % taps] = at;
      lines[j] = place;
    }
    down<taps>(lines, worker.rows.weights.data() + y * taps, planar ? planes : line, values);
    if (planar) interleave(planes, line, width);
    for (std::int64_t i = 0; i < 3 * BEFORE; ++i) line[i - 3 * BEFORE] = line[i % 3];
    for (std::int64_t i = 0; i < 3 * AFTER; ++i) line[values + i] = line[values - 3 + i % 3];
    line[values + 3 * AFTER] = 0;  // read with the last pixel's three
    across<taps>(line, worker.columns, scale, bias, finished, size);
    write(call.type, finished, out + y * 3 * size * bytes(call.type), 3 * size);
  }
}

using Way = void (*)(const Image&, const Call&, Worker&, std::byte*, const Lanes&, const Lanes&);

template <int taps>
void narrow(const Image& image, const Call& call, Worker& worker, std::byte* out, const Lanes& scale,
            const Lanes& bias) {
  resize<taps>(image, call, worker, out, load(scale), load(bias));
}

template <int taps>
GFNET_WIDE void wide(const Image& image, const Call& call, Worker& worker, std::byte* out, const Lanes& scale,
                     const Lanes& bias) {
  resize<taps>(image, call, worker, out, load(scale), load(bias));
}

/// The widest of the images that are read; -1 where one has no rows or columns, or more than 32 bits count.
std::int64_t widest(const Call& call) {
  std::int64_t most = 0;
  for (std::int64_t i = 0; i < call.rows; ++i) {
    if (call.slots[i] < 0) continue;
    const Image image = call.images[call.slots[i]];
    const auto [least, largest] = std::minmax(image.height, image.width);
    if (least < 1 || largest > INT32_MAX) return -1;
    most = std::max(most, image.width);
  }
  return most;
}

}  // namespace

bool named(const Call& call) {
  const std::int64_t unit = call.images.table != nullptr ? bytes(call.images.type) : 1;
  for (std::int64_t i = 0; i < call.rows; ++i) {
    const std::int64_t slot = call.slots[i];
    if (slot < -1 || slot >= call.images.count) return false;
    if (slot >= 0 && call.images[slot].address % static_cast<std::uintptr_t>(unit) != 0) return false;
  }
  return true;
}

bool glance(const Call& call, int taps, const Lanes& scale, const Lanes& bias) {
  const std::int64_t width = named(call) ? widest(call) : -1;
  if (width < 0) return false;
  const unsigned workers = workers_for(call.threads, call.rows, call.size * 3 * width);
  std::vector<Worker> own;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(workers, call.rows); ++i) {
    const std::size_t floats = extent(width, call.size, taps);
    own.push_back({Axis(call.size, taps), Axis(call.size, taps), std::make_unique_for_overwrite<float[]>(floats)});
  }
  const bool vectors = has_wide_vectors();
  const Way way = taps == 2 ? (vectors ? wide<2> : narrow<2>) : (vectors ? wide<4> : narrow<4>);
  share(workers, call.rows, [&](unsigned worker, std::int64_t i) {
    if (call.slots[i] < 0) {
      std::memset(call.row(i), 0, static_cast<std::size_t>(call.row_bytes()));
    } else {
      way(call.images[call.slots[i]], call, own[worker], call.row(i), scale, bias);
    }
  });
  return true;
}

}  // namespace gfnet::pixels

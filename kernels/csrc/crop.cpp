#include <algorithm>
#include <vector>

#include "lines.hpp"
#include "threads.hpp"

namespace gfnet::pixels {

namespace {

/// What is made once for all windows: of bytes, what each becomes in each channel; else a line of means and stds.
struct Prepared {
  std::vector<std::byte> table;
  std::vector<float> mean, std;
};

Prepared prepare(const Call& call, const Lanes& mean, const Lanes& std) {
  Prepared made;
  if (call.images.type != Type::uint8) {
    for (std::int64_t i = 0; i < 3 * call.size; ++i) {
      made.mean.push_back(mean[i % 3]);
      made.std.push_back(std[i % 3]);
    }
    return made;
  }
  std::vector<float> values(3 * 256);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = (static_cast<float>(i % 256) / 255.0F - mean[i / 256]) / std[i / 256];
  }
  made.table.resize(values.size() * static_cast<std::size_t>(bytes(call.type)));
  write(call.type, values.data(), made.table.data(), 3 * 256);
  return made;
}

template <class Value>
void look_up(const Image& image, const std::int32_t* origin, std::int64_t size, const std::byte* table,
             std::byte* out) {
  const auto* red = reinterpret_cast<const Value*>(table);
  const Value *green = red + 256, *blue = red + 512;
  for (std::int64_t y = 0; y < size; ++y) {
    const auto* from = reinterpret_cast<const std::uint8_t*>(image.at(Type::uint8, origin[0] + y, origin[1], 0));
    auto* __restrict to = reinterpret_cast<Value*>(out) + y * 3 * size;
    const std::int64_t column = image.column, channel = image.channel;
    for (std::int64_t x = 0; x < size; ++x, from += column) {
      to[3 * x] = red[from[0]];
      to[3 * x + 1] = green[from[channel]];
      to[3 * x + 2] = blue[from[2 * channel]];
    }
  }
}

GFNET_INLINE void normalise(const Image& image, const std::int32_t* origin, const Call& call, const Prepared& made,
                            float* line, std::byte* out) {
  const std::int64_t values = 3 * call.size;
  const float* __restrict mean = made.mean.data();
  const float* __restrict std = made.std.data();
  float* __restrict floats = line;
  for (std::int64_t y = 0; y < call.size; ++y) {
    read_pixels(call.images.type, image, origin[0] + y, origin[1], call.size, false, line);
    for (std::int64_t i = 0; i < values; ++i) floats[i] = (floats[i] - mean[i]) / std[i];
    write(call.type, line, out + y * values * bytes(call.type), values);
  }
}

void narrow(const Image& image, const std::int32_t* origin, const Call& call, const Prepared& made, float* line,
            std::byte* out) {
  normalise(image, origin, call, made, line, out);
}

GFNET_WIDE void wide(const Image& image, const std::int32_t* origin, const Call& call, const Prepared& made,
                     float* line, std::byte* out) {
  normalise(image, origin, call, made, line, out);
}

bool inside(const Call& call, const std::int32_t* origins) {
  for (std::int64_t i = 0; i < call.rows; ++i) {
    if (call.slots[i] < 0) continue;
    const Image image = call.images[call.slots[i]];
    const std::int32_t *origin = origins + 2 * i, least = std::min(origin[0], origin[1]);
    if (least < 0 || origin[0] > image.height - call.size || origin[1] > image.width - call.size) return false;
  }
  return true;
}

}  // namespace

bool crop(const Call& call, const std::int32_t* origins, const Lanes& mean, const Lanes& std) {
  if (!named(call) || !inside(call, origins)) return false;
  const unsigned workers = workers_for(call.threads, call.rows, 3 * call.size * call.size);
  const auto values = static_cast<std::size_t>(3 * call.size);
  const bool integral = call.images.type == Type::uint8;
  const Prepared made = prepare(call, mean, std);
  std::vector<float> lines(integral ? 0 : workers * values);
  const auto by_table = call.type == Type::float32 ? look_up<float> : look_up<std::uint16_t>;
  const auto way = has_wide_vectors() ? wide : narrow;
  share(workers, call.rows, [&](unsigned worker, std::int64_t i) {
    if (call.slots[i] < 0) {
      std::memset(call.row(i), 0, static_cast<std::size_t>(call.row_bytes()));
      return;
    }
    const Image image = call.images[call.slots[i]];
    if (integral) {
      by_table(image, origins + 2 * i, call.size, made.table.data(), call.row(i));
    } else {
      way(image, origins + 2 * i, call, made, lines.data() + worker * values, call.row(i));
    }
  });
  return true;
}

}  // namespace gfnet::pixels

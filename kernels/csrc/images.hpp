/// Where pixels come from and go to: images of any size and strides, by slot, as memory that torch owns.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gfnet::pixels {

/// A pixel's type, or an output's. The numbers are what bindings.cpp tells Python.
enum class Type : std::int32_t { uint8, float32, float16, bfloat16 };

constexpr std::int64_t bytes(Type type) { return type == Type::uint8 ? 1 : type == Type::float32 ? 4 : 2; }

/// One image: its pixel (0, 0, 0), its sides and its strides in values, which may be zero or negative.
struct Image {
  std::uintptr_t address;
  std::int64_t height, width, row, column, channel;

  const std::byte* at(Type type, std::int64_t y, std::int64_t x, std::int64_t c) const {
    const std::int64_t offset = (y * row + x * column + c * channel) * bytes(type);
    return reinterpret_cast<const std::byte*>(address + static_cast<std::uintptr_t>(offset));
  }
  bool interleaved() const { return channel == 1 && column == 3; }
  bool planar() const { return column == 1; }
};

/// The images by slot: a table of rows as `Image` has them, or, without one, equal images that lie `step` apart.
struct Images {
  Type type;
  std::int64_t count;
  const std::int64_t* table;
  Image first;
  std::int64_t step;

  Image operator[](std::int64_t slot) const {
    if (table != nullptr) {
      const std::int64_t* entry = table + 6 * slot;
      return {static_cast<std::uintptr_t>(entry[0]), entry[1], entry[2], entry[3], entry[4], entry[5]};
    }
    Image image = first;
    image.address += static_cast<std::uintptr_t>(slot * step * bytes(type));
    return image;
  }
};

/// What glance and crop share: output row i is of slot `slots[i]`, or zero where that is -1.
/// `out` is [rows, size, size, 3], dense.
struct Call {
  Images images;
  const std::int32_t* slots;
  std::int64_t rows;
  std::byte* out;
  Type type;
  std::int64_t size;
  unsigned threads;

  std::byte* row(std::int64_t i) const { return out + i * row_bytes(); }
  std::int64_t row_bytes() const { return size * size * 3 * bytes(type); }
};

/// Three numbers for each channel, and one for a fourth lane.
using Lanes = float[4];

/// The images filtered with `taps` (2: bilinear, 4: bicubic) to size x size, times scale, plus bias.
/// False, and nothing is written, where a slot, a side or an address is not one.
bool glance(const Call& call, int taps, const Lanes& scale, const Lanes& bias);

/// The windows at `origins` (row, column), minus mean, over std, uint8 over 255 before that.
/// False, and nothing is written, where a slot, an origin or an address is not one.
bool crop(const Call& call, const std::int32_t* origins, const Lanes& mean, const Lanes& std);

/// Whether every slot is -1 or names an image whose values are aligned.
bool named(const Call& call);

}  // namespace gfnet::pixels

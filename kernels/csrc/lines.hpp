/// Lines of values as float32 and back, inlined into what is compiled once for each kind of processor.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "images.hpp"

#define GFNET_INLINE [[gnu::always_inline]] inline

// A wheel is for every x86-64, whose vectors are half as wide as those of nearly all that are in use.
#if defined(__x86_64__) && !defined(GFNET_NARROW)
#define GFNET_WIDE [[gnu::target("avx2,fma")]]
inline bool has_wide_vectors() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#else
#define GFNET_WIDE
inline bool has_wide_vectors() { return false; }
#endif

namespace gfnet::pixels {

/// Without a branch, which would keep loops from becoming vectors.
GFNET_INLINE std::uint32_t either(bool first, std::uint32_t one, std::uint32_t other) {
  const std::uint32_t mask = 0U - static_cast<std::uint32_t>(first);
  return (one & mask) | (other & ~mask);
}

template <Type type>
struct Stored {
  using Value = std::uint16_t;
};
template <>
struct Stored<Type::uint8> {
  using Value = std::uint8_t;
};
template <>
struct Stored<Type::float32> {
  using Value = float;
};

template <Type type>
GFNET_INLINE float from(typename Stored<type>::Value stored) {
  if constexpr (type == Type::uint8) {
    return static_cast<float>(static_cast<int>(stored));  // vectors have a conversion from int
  } else if constexpr (type == Type::float32) {
    return stored;
  } else {
    const std::uint32_t word = static_cast<std::uint32_t>(stored) << 16U, twice = word + word;
    if constexpr (type == Type::bfloat16) return std::bit_cast<float>(word);
    const float normal = std::bit_cast<float>((twice >> 4U) + (0xE0U << 23U)) * 0x1.0p-112F;
    const float subnormal = std::bit_cast<float>((twice >> 17U) | (126U << 23U)) - 0.5F;
    const std::uint32_t bits = either(twice < (1U << 27U), std::bit_cast<std::uint32_t>(subnormal),
                                      std::bit_cast<std::uint32_t>(normal));
    return std::bit_cast<float>((word & 0x80000000U) | bits);
  }
}

/// To the nearest, ties to even; not a number stays so.
template <Type type>
GFNET_INLINE typename Stored<type>::Value to(float value) {
  if constexpr (type == Type::float32) {
    return value;
  } else {
    const auto word = std::bit_cast<std::uint32_t>(value), twice = word + word;
    const bool number = twice <= 0xFF000000U;
    if constexpr (type == Type::bfloat16) {
      const std::uint32_t rounded = (word + 0x7FFFU + (word >> 16U & 1U)) >> 16U;
      return static_cast<std::uint16_t>(either(number, rounded, 0x7FC0U));
    } else {
      const std::uint32_t top = twice & 0xFF000000U, exponent = either(top < 0x71000000U, 0x71000000U, top);
      // The product makes what is too large infinite; the sum rounds where the shorter mantissa ends.
      const float magnitude = std::bit_cast<float>(word & 0x7FFFFFFFU) * 0x1.0p+112F * 0x1.0p-110F;
      const auto bits = std::bit_cast<std::uint32_t>(std::bit_cast<float>((exponent >> 1U) + 0x07800000U) + magnitude);
      const std::uint32_t rounded = ((bits >> 13U) & 0x7C00U) + (bits & 0x0FFFU);
      return static_cast<std::uint16_t>((word >> 16U & 0x8000U) | either(number, rounded, 0x7E00U));
    }
  }
}

template <Type type>
GFNET_INLINE void read_as(const std::byte* source, std::int64_t stride, float* __restrict target, std::int64_t apart,
                          std::int64_t count) {
  const auto* values = reinterpret_cast<const typename Stored<type>::Value*>(source);
  if (stride == 1 && apart == 1) {
    for (std::int64_t i = 0; i < count; ++i) target[i] = from<type>(values[i]);
  } else {
    for (std::int64_t i = 0; i < count; ++i) target[i * apart] = from<type>(values[i * stride]);
  }
}

/// `count` stored values, `stride` from each other, as float32, `apart` from each other.
GFNET_INLINE void read(Type type, const std::byte* source, std::int64_t stride, float* target, std::int64_t apart,
                       std::int64_t count) {
  switch (type) {
    case Type::uint8: return read_as<Type::uint8>(source, stride, target, apart, count);
    case Type::float32: return read_as<Type::float32>(source, stride, target, apart, count);
    case Type::float16: return read_as<Type::float16>(source, stride, target, apart, count);
    case Type::bfloat16: return read_as<Type::bfloat16>(source, stride, target, apart, count);
  }
}

template <Type type>
GFNET_INLINE void write_as(const float* __restrict source, std::byte* target, std::int64_t count) {
  auto* __restrict values = reinterpret_cast<typename Stored<type>::Value*>(target);
  for (std::int64_t i = 0; i < count; ++i) values[i] = to<type>(source[i]);
}

/// `count` values as an output's type.
GFNET_INLINE void write(Type type, const float* source, std::byte* target, std::int64_t count) {
  if (type == Type::float32) return write_as<Type::float32>(source, target, count);
  if (type == Type::float16) return write_as<Type::float16>(source, target, count);
  write_as<Type::bfloat16>(source, target, count);
}

/// Three lines of `count` values each, one after the other, as pixels.
GFNET_INLINE void interleave(const float* __restrict planes, float* __restrict pixels, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    pixels[3 * i] = planes[i];
    pixels[3 * i + 1] = planes[count + i];
    pixels[3 * i + 2] = planes[2 * count + i];
  }
}

/// `width` pixels of a line of an image from column x on: interleaved, or, where `planar`, one channel after the other.
GFNET_INLINE void read_pixels(Type type, const Image& image, std::int64_t y, std::int64_t x, std::int64_t width,
                              bool planar, float* line) {
  if (image.interleaved()) return read(type, image.at(type, y, x, 0), 1, line, 1, 3 * width);
  for (std::int64_t c = 0; c < 3; ++c) {
    read(type, image.at(type, y, x, c), image.column, planar ? line + c * width : line + c, planar ? 1 : 3, width);
  }
}

}  // namespace gfnet::pixels

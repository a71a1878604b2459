/// gfnet_kernels._cpu: glance and crop on a CPU, of memory that Python names by its address.
///
/// The interpreter lock is given up while they compute. What lies at an address is the caller's to know.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>

#include "images.hpp"

namespace py = pybind11;
using namespace gfnet::pixels;
using namespace py::literals;

namespace {

using Address = std::uintptr_t;
using Three = std::array<float, 3>;

Type type_of(std::int64_t number) {
  if (number >= 0 && number <= 3) return static_cast<Type>(number);
  throw std::invalid_argument("type: expected 0..3, got " + std::to_string(number));
}

/// A table of `count` rows, or equal images: their height, width and strides of image, row, column and channel.
using Alike = std::array<std::int64_t, 6>;

Images images_of(Address address, std::int64_t count, const std::optional<Alike>& alike, std::int64_t type) {
  if (!alike) return {type_of(type), count, reinterpret_cast<const std::int64_t*>(address), {}, 0};
  const auto [height, width, image, row, column, channel] = *alike;
  return {type_of(type), count, nullptr, {address, height, width, row, column, channel}, image};
}

Call call_of(const Images& images, Address slots, std::int64_t rows, Address out, std::int64_t type, std::int64_t size,
             std::int64_t threads) {
  const Type to = type_of(type);
  if (to == Type::uint8) throw std::invalid_argument("out_type: expected 1..3, got 0");
  if (size < 1) throw std::invalid_argument("size: expected at least 1, got " + std::to_string(size));
  if (threads < 1) throw std::invalid_argument("threads: expected at least 1, got " + std::to_string(threads));
  return {images, reinterpret_cast<const std::int32_t*>(slots), rows, reinterpret_cast<std::byte*>(out), to, size,
          static_cast<unsigned>(threads)};
}

bool py_glance(Address address, std::int64_t count, const std::optional<Alike>& alike, std::int64_t from, Address slots,
               std::int64_t rows, Address out, std::int64_t to, std::int64_t size, std::int64_t threads,
               std::int64_t taps, const Three& scale, const Three& bias) {
  const Call call = call_of(images_of(address, count, alike, from), slots, rows, out, to, size, threads);
  if (taps != 2 && taps != 4) throw std::invalid_argument("taps: expected 2 or 4, got " + std::to_string(taps));
  const py::gil_scoped_release computing;
  return glance(call, static_cast<int>(taps), {scale[0], scale[1], scale[2], 0}, {bias[0], bias[1], bias[2], 0});
}

bool py_crop(Address address, std::int64_t count, const std::optional<Alike>& alike, std::int64_t from, Address slots,
             std::int64_t rows, Address out, std::int64_t to, std::int64_t size, std::int64_t threads, Address origins,
             const Three& mean, const Three& std) {
  const Call call = call_of(images_of(address, count, alike, from), slots, rows, out, to, size, threads);
  const py::gil_scoped_release computing;
  return crop(call, reinterpret_cast<const std::int32_t*>(origins), {mean[0], mean[1], mean[2], 0},
              {std[0], std[1], std[2], 1});
}

}  // namespace

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  m.doc() = "Reads pixels on a CPU: resized images and windows, normalised.";
  m.def("glance", &py_glance, "address"_a, "count"_a, "alike"_a, "type"_a, "slots"_a, "rows"_a, "out"_a, "out_type"_a,
        "size"_a, "threads"_a, "taps"_a, "scale"_a, "bias"_a);
  m.def("crop", &py_crop, "address"_a, "count"_a, "alike"_a, "type"_a, "slots"_a, "rows"_a, "out"_a, "out_type"_a,
        "size"_a, "threads"_a, "origins"_a, "mean"_a, "std"_a);
}

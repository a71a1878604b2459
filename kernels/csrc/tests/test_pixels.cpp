/// Images of any strides and types in memory of just their size, against sums written down plainly in double.
#include <algorithm>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "lines.hpp"
#include "threads.hpp"

using namespace gfnet::pixels;

namespace {

constexpr Type TYPES[] = {Type::uint8, Type::float32, Type::float16, Type::bfloat16};
constexpr Lanes SCALE = {2, 0.5F, 3, 0}, BIAS = {1, -2, 0.25F, 0};

void threads_as_a_team(void (*work)(void*), void* argument, unsigned count, unsigned) {
  std::vector<std::thread> others;
  for (unsigned i = 1; i < count; ++i) others.emplace_back(work, argument);
  work(argument);
  for (std::thread& other : others) other.join();
}

float value_at(const Image& image, Type type, std::int64_t y, std::int64_t x, std::int64_t c) {
  float value = 0;
  read(type, image.at(type, y, x, c), 1, &value, 1, 1);
  return value;
}

/// An image that owns its pixels, laid out in one of the ways that callers have.
struct Owned {
  std::vector<std::byte> memory;
  Image image;
};

Owned make(std::mt19937& random, Type type, std::int64_t height, std::int64_t width, int layout) {
  const auto values = static_cast<std::size_t>(height * width * 3);
  Owned made{std::vector<std::byte>(values * static_cast<std::size_t>(bytes(type))), {}};
  for (std::size_t i = 0; i < values; ++i) {
    const auto byte = static_cast<std::byte>(random() % 256);
    std::byte* place = made.memory.data() + i * static_cast<std::size_t>(bytes(type));
    if (type == Type::uint8) *place = byte;
    else write(type, std::vector<float>{static_cast<float>(byte) / 7 - 9}.data(), place, 1);
  }
  const auto address = reinterpret_cast<std::uintptr_t>(made.memory.data());
  if (layout == 0) made.image = {address, height, width, 3 * width, 3, 1};
  if (layout == 1) made.image = {address, height, width, width, 1, height * width};
  if (layout == 2) made.image = {address, height, width, 3, 3 * height, 1};  // turned
  if (layout == 3) {                                                        // upside down, mirrored, blue first
    const std::int64_t last = 3 * height * width - 1;
    made.image = {address + static_cast<std::uintptr_t>(last * bytes(type)), height, width, -3 * width, -3, -1};
  }
  if (layout == 4) made.image = {address, height, width, 0, 3, 1};  // one line for all
  return made;
}

/// Weighted positions of an axis, weights in double of a float32 position.
std::vector<std::pair<std::int64_t, double>> taps_of(std::int64_t i, std::int64_t length, std::int64_t size, int taps) {
  const float step = static_cast<float>(length - 1) / static_cast<float>(std::max<std::int64_t>(1, size - 1));
  volatile float product = size > 1 ? step * static_cast<float>(i) : 0;  // rounded, whatever the compiler would fuse
  const float position = product, whole = std::floor(position);
  std::vector<std::pair<std::int64_t, double>> found;
  for (int j = 1 - taps / 2; j <= taps / 2; ++j) {
    const double d = std::abs(static_cast<double>(position - whole) - j), a = -0.75;
    const double near = ((a + 2) * d - (a + 3)) * d * d + 1, far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
    const double weight = taps == 2 ? 1 - d : d <= 1 ? near : far;
    found.emplace_back(std::clamp<std::int64_t>(static_cast<std::int64_t>(whole) + j, 0, length - 1), weight);
  }
  return found;
}

double expected(const Image& image, Type type, std::int64_t y, std::int64_t x, int c, std::int64_t size, int taps) {
  double sum = 0;
  for (const auto& [row, down] : taps_of(y, image.height, size, taps)) {
    for (const auto& [column, across] : taps_of(x, image.width, size, taps)) {
      sum += down * across * static_cast<double>(value_at(image, type, row, column, c));
    }
  }
  return sum * static_cast<double>(SCALE[c]) + static_cast<double>(BIAS[c]);
}

std::int64_t entry(std::vector<std::int64_t>& table, const Image& image) {
  table.insert(table.end(), {static_cast<std::int64_t>(image.address), image.height, image.width, image.row,
                             image.column, image.channel});
  return static_cast<std::int64_t>(table.size()) / 6;
}

void any_image_is_resized() {
  std::mt19937 random(1);
  const std::int64_t sides[][2] = {{1, 1}, {1, 9}, {7, 1}, {5, 3}, {40, 23}, {19, 64}};
  for (const Type type : TYPES) {
    for (const int layout : {0, 1, 2, 3, 4}) {
      std::vector<Owned> owned;
      std::vector<std::int64_t> table;
      std::vector<std::int32_t> slots;
      for (const auto& [height, width] : sides) {
        const Owned& made = owned.emplace_back(make(random, type, height, width, layout));
        slots.push_back(static_cast<std::int32_t>(entry(table, made.image) - 1));
      }
      slots.push_back(-1);
      const auto rows = static_cast<std::int64_t>(slots.size());
      for (const std::int64_t size : {1, 2, 5, 24}) {
        for (const int taps : {2, 4}) {
          std::vector<float> out(static_cast<std::size_t>(rows * size * size * 3), NAN);
          const Call call{{type, rows - 1, table.data(), {}, 0}, slots.data(), rows,
                          reinterpret_cast<std::byte*>(out.data()), Type::float32, size, 1};
          CHECK(glance(call, taps, SCALE, BIAS));
          std::size_t at = 0;
          for (const std::int32_t slot : slots) {
            for (std::int64_t i = 0; i < 3 * size * size; ++i, ++at) {
              const std::int64_t y = i / 3 / size, x = i / 3 % size;
              const int c = static_cast<int>(i % 3);
              const double right = slot < 0 ? 0 : expected(call.images[slot], type, y, x, c, size, taps);
              CHECK(std::abs(static_cast<double>(out[at]) - right) < 1e-3);
            }
          }
        }
      }
    }
  }
}

void windows_are_cut() {
  std::mt19937 random(2);
  for (const Type type : TYPES) {
    for (const int layout : {0, 1, 2, 3, 4}) {
      const Owned owned = make(random, type, 9, 12, layout);
      const std::int32_t slots[] = {0, -1, 0}, origins[] = {0, 0, -5, 99, 4, 7};
      for (const Type to : {Type::float32, Type::bfloat16}) {
        std::vector<std::byte> out(static_cast<std::size_t>(3 * 5 * 5 * 3 * bytes(to)));
        const Call call{{type, 1, nullptr, owned.image, 0}, slots, 3, out.data(), to, 5, 1};
        CHECK(crop(call, origins, BIAS, SCALE));
        for (std::int64_t i = 0; i < 3 * 75; ++i) {
          const std::int64_t row = i / 75, y = i / 15 % 5 + origins[2 * row], x = i / 3 % 5 + origins[2 * row + 1];
          float value = row == 1 ? 0 : value_at(owned.image, type, y, x, i % 3), got = 0, right = 0;
          if (type == Type::uint8) value /= 255.0F;
          if (row != 1) value = (value - BIAS[i % 3]) / SCALE[i % 3];
          std::byte rounded[4];
          write(to, &value, rounded, 1);
          read(to, rounded, 1, &right, 1, 1);
          read(to, out.data() + i * bytes(to), 1, &got, 1, 1);
          CHECK(got == right);
        }
      }
    }
  }
}

void threads_change_nothing() {
  std::mt19937 random(3);
  const Owned owned = make(random, Type::uint8, 90, 100, 0);
  std::vector<std::int32_t> slots(300, 0), origins;
  for (std::size_t i = 0; i < slots.size(); i += 7) slots[i] = -1;
  for (std::size_t i = 0; i < 2 * slots.size(); ++i) origins.push_back(static_cast<std::int32_t>(random() % 50));
  std::vector<std::vector<float>> results;
  for (const unsigned threads : {1U, 2U, 5U}) {
    for (const bool windows : {false, true}) {
      std::vector<float>& out = results.emplace_back(slots.size() * 40 * 40 * 3, NAN);
      const Call call{{Type::uint8, 1, nullptr, owned.image, 0}, slots.data(), 300,
                      reinterpret_cast<std::byte*>(out.data()), Type::float32, 40, threads};
      CHECK(windows ? crop(call, origins.data(), BIAS, SCALE) : glance(call, 4, SCALE, BIAS));
    }
  }
  for (std::size_t i = 2; i < results.size(); ++i) CHECK(results[i] == results[i % 2]);
}

void a_row_does_not_depend_on_the_others() {
  std::mt19937 random(4);
  std::vector<std::int64_t> table;
  const Owned one = make(random, Type::uint8, 30, 20, 0), other = make(random, Type::uint8, 9, 70, 1);
  entry(table, one.image);
  entry(table, other.image);
  const std::int32_t slots[] = {0, 1, 0, 1};
  std::vector<float> out(4 * 8 * 8 * 3), alone(8 * 8 * 3);
  const Images images{Type::uint8, 2, table.data(), {}, 0};
  CHECK(glance({images, slots, 4, reinterpret_cast<std::byte*>(out.data()), Type::float32, 8, 1}, 4, SCALE, BIAS));
  for (std::size_t row = 0; row < 4; ++row) {
    const Call call{images, slots + row, 1, reinterpret_cast<std::byte*>(alone.data()), Type::float32, 8, 1};
    CHECK(glance(call, 4, SCALE, BIAS));
    CHECK(std::equal(alone.begin(), alone.end(), out.begin() + static_cast<std::ptrdiff_t>(row * alone.size())));
  }
}

void what_is_not_one_is_refused() {
  std::mt19937 random(5);
  const Owned owned = make(random, Type::float32, 9, 12, 0);
  std::vector<float> out(8 * 8 * 3, 7);
  auto* to = reinterpret_cast<std::byte*>(out.data());
  const std::int32_t none = -2, zero = 0, first = 1, inside[] = {1, 4}, outside[] = {2, 4}, before[] = {0, -1};
  std::int64_t bad[6] = {static_cast<std::int64_t>(owned.image.address) + 2, 9, 12, 36, 3, 1};
  std::int64_t empty[6] = {static_cast<std::int64_t>(owned.image.address), 0, 12, 36, 3, 1};
  const auto call = [&](const std::int32_t* slots, const std::int64_t* table) {
    return Call{{Type::float32, 1, table, owned.image, 0}, slots, 1, to, Type::float32, 8, 1};
  };
  for (const std::int32_t* slots : {&none, &first}) {
    CHECK(!glance(call(slots, nullptr), 4, SCALE, BIAS));
    CHECK(!crop(call(slots, nullptr), inside, BIAS, SCALE));
  }
  for (const std::int64_t* table : {bad, empty}) CHECK(!glance(call(&zero, table), 4, SCALE, BIAS));
  CHECK(!crop(call(&zero, empty), inside, BIAS, SCALE));
  for (const std::int32_t* origins : {outside, before}) CHECK(!crop(call(&zero, nullptr), origins, BIAS, SCALE));
  CHECK(std::ranges::all_of(out, [](float value) { return value == 7; }));
  CHECK(crop(call(&zero, nullptr), inside, BIAS, SCALE));
}

/// All numbers of 16 bits come back, and what lies between two goes to the nearer, or to the even one.
void shorter_types_round_to_the_nearest() {
  const auto convert = [](Type type, float value) {
    std::uint16_t stored = 0;
    write(type, &value, reinterpret_cast<std::byte*>(&stored), 1);
    return stored;
  };
  for (const Type type : {Type::float16, Type::bfloat16}) {
    const auto value_of = [&](std::uint32_t number) {
      const auto stored = static_cast<std::uint16_t>(number);
      float value = 0;
      read(type, reinterpret_cast<const std::byte*>(&stored), 1, &value, 1, 1);
      return value;
    };
    const std::uint32_t infinite = type == Type::float16 ? 0x7C00 : 0x7F80;
    for (std::uint32_t number = 0; number < 0x8000; ++number) {
      const float value = value_of(number), next = value_of(number + 1);
      CHECK(std::isnan(value) == (number > infinite));
      CHECK(std::isnan(value) ? std::isnan(value_of(convert(type, value))) : convert(type, value) == number);
      CHECK(std::isnan(value) || convert(type, -value) == (number | 0x8000U));
      if (number + 1 >= infinite) continue;
      const float middle = value + (next - value) / 2;
      CHECK(convert(type, middle) == number + (number & 1U));
      CHECK(convert(type, std::nextafter(middle, value)) == number);
      CHECK(convert(type, std::nextafter(middle, next)) == number + 1);
    }
    CHECK(convert(type, 3e38F) == (type == Type::float16 ? infinite : 0x7F62));
    CHECK(convert(type, INFINITY) == infinite);
  }
}

}  // namespace

int main() {
  set_team(threads_as_a_team);
  any_image_is_resized();
  windows_are_cut();
  threads_change_nothing();
  a_row_does_not_depend_on_the_others();
  what_is_not_one_is_refused();
  shorter_types_round_to_the_nearest();
}

/// Refusals, all in one form: "name: expected A, got B".
#pragma once

#include <cmath>
#include <concepts>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "gfnet/limits.hpp"
#include "gfnet/scheduler.hpp"

namespace gfnet {

[[noreturn]] inline void refuse(const std::string& name, const std::string& expected, const std::string& got) {
  throw std::invalid_argument(name + ": expected " + expected + ", got " + got);
}

inline std::string text(std::integral auto number) { return std::to_string(number); }
inline std::string text(double number) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g", number);
  return digits;
}

/// Refuses what is not within `least` and `most`; NaN never is.
template <class Number>
void check_range(const char* name, Number got, Number least, Number most) {
  if (!(got >= least && got <= most)) refuse(name, text(least) + " to " + text(most), text(got));
}

inline void check_range(const char* name, Seconds got, Seconds most) {
  if (!(got.count() >= 0 && got <= most)) refuse(name, "0 to " + text(most.count()) + " seconds", text(got.count()));
}

inline void check_finite(const char* name, Seconds got) {
  if (!std::isfinite(got.count())) refuse(name, "finite seconds", text(got.count()));
}

/// The buckets, smallest first. Refuses none or too many, a size or a cost out of range, a size that is there twice.
std::vector<Bucket> checked(std::vector<Bucket> buckets, const std::string& name);

/// Refuses options out of range.
const Options& checked(const Options& options, const CostTable& costs);

/// The most rows that a scheduler may have in flight, padding included.
std::int64_t rows_in_flight(const Options& options, const CostTable& costs);

}  // namespace gfnet

/// What the two simulations share: the arrivals, the exits, and the account of the answers.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gfnet/simulation.hpp"

namespace gfnet {

inline constexpr double never = std::numeric_limits<double>::infinity();

/// splitmix64: one multiply chain a draw, which is what 1e8 images need.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  /// Uniform in (0, 1].
  double draw() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<double>(((z ^ (z >> 31)) >> 11) + 1) * 0x1p-53;
  }

 private:
  std::uint64_t state_;
};

/// The images to come, in order of arrival. Keeps no list of them.
class Source {
 public:
  explicit Source(const Load& load) : load_(load), random_(load.seed) { draw_gap(); }

  bool over() const { return taken_ == load_.images; }
  double next() const { return over() ? never : next_; }

  /// The arrival time of the next image, which is gone then.
  double take() {
    const double arrived = next_;
    ++taken_;
    if (load_.arrivals == Arrivals::poisson || (load_.arrivals == Arrivals::bursts && taken_ % load_.burst == 0)) {
      draw_gap();
    }
    return arrived;
  }

 private:
  void draw_gap() {
    if (load_.arrivals == Arrivals::at_once) return;
    const double each = load_.arrivals == Arrivals::bursts ? load_.rate / load_.burst : load_.rate;
    next_ += -std::log(random_.draw()) / each;
  }

  const Load& load_;
  Random random_;
  double next_ = 0;
  std::int64_t taken_ = 0;
};

/// Whether an image leaves at a step, given that it has come to it.
class Exits {
 public:
  explicit Exits(const Load& load) : random_(~load.seed) {
    double left = 1;
    for (const double share : load.exits) {
      hazards_.push_back(left > 1e-12 ? std::min(1.0, share / left) : 1.0);
      left -= share;
    }
    hazards_.back() = 1;
  }
  bool leaves(std::int32_t step) { return random_.draw() <= hazards_[static_cast<std::size_t>(step) - 1]; }

 private:
  std::vector<double> hazards_;
  Random random_;
};

/// Times to the answer in bins one per cent wide, from 0.1 microseconds to a day: memory does not grow with the load.
class Latencies {
 public:
  void add(double seconds) {
    sum_ += seconds;
    worst_ = std::max(worst_, seconds);
    ++count_;
    const double bin = std::log(std::max(seconds, least) / least) / width;
    ++bins_[std::min(static_cast<std::size_t>(bin), bins_.size() - 1)];
  }

  void report(Report& report) const {
    report.mean = Seconds{count_ > 0 ? sum_ / static_cast<double>(count_) : 0};
    report.p50 = percentile(0.5);
    report.p90 = percentile(0.9);
    report.p99 = percentile(0.99);
    report.p999 = percentile(0.999);
    report.worst = Seconds{worst_};
  }

 private:
  static constexpr double least = 1e-7;
  static constexpr double width = 0.00995033;  // log(1.01)

  Seconds percentile(double share) const {
    const auto wanted = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(count_)));
    std::int64_t seen = 0;
    for (std::size_t bin = 0; bin < bins_.size(); ++bin) {
      seen += bins_[bin];
      if (seen >= wanted) return Seconds{std::min(worst_, least * std::exp(width * (static_cast<double>(bin) + 1)))};
    }
    return Seconds{worst_};
  }

  std::array<std::int64_t, 2800> bins_{};
  double sum_ = 0;
  double worst_ = 0;
  std::int64_t count_ = 0;
};

}  // namespace gfnet

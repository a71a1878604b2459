/// Loads that no machine here can make, on the real scheduler: only the device and the exits are imagined.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "gfnet/scheduler.hpp"

namespace gfnet {

enum class Arrivals : std::uint8_t {
  at_once,  ///< everything is there at the start
  poisson,  ///< one by one, gaps exponential
  bursts,   ///< `burst` at a time, gaps between bursts exponential
};

struct Load {
  std::int64_t images = 0;
  std::vector<double> exits;  ///< [T], the share of the images that leaves at each step; sums to one
  Arrivals arrivals = Arrivals::at_once;
  double rate = 0;            ///< images a second, unless at_once
  std::int32_t burst = 1;
  Seconds allowed{0};         ///< Mode::deadline: from arrival to deadline
  std::uint64_t seed = 1;
};

struct Machine {
  std::int32_t devices = 1;  ///< each with a scheduler of its own; they take images from one queue
  Seconds sync{0};           ///< from the end of a launch until its outcome is known and acted on
  Seconds issue{0};          ///< host time per launch
};

struct Report {
  std::int64_t images = 0;
  std::int64_t unanswered = 0;  ///< left without a prediction (Mode::deadline)
  std::int64_t passes = 0;
  std::int64_t padded_rows = 0;
  std::int64_t launches = 0;
  std::int64_t waits = 0;       ///< plans that had to wait for an outcome
  Seconds makespan{};           ///< first arrival to last answer
  Seconds busy{};               ///< device time, all devices together
  Seconds ideal{};              ///< the passes at their stage's best time per row
  std::int32_t devices = 1;
  Seconds mean{};               ///< arrival to answer, and its percentiles to within one per cent
  Seconds p50{}, p90{}, p99{}, p999{}, worst{};

  double throughput() const { return static_cast<double>(images) / makespan.count(); }
  double share_of_ideal() const { return ideal / (makespan * devices); }
  double occupancy() const { return busy / (makespan * devices); }
  double padding() const {
    return static_cast<double>(padded_rows) / static_cast<double>(std::max<std::int64_t>(1, passes + padded_rows));
  }
};

/// Called now and then, some ten times a second or more. What it throws ends the simulation.
using Poll = std::function<void()>;

/// Step-merged batches: the scheduler, with options.in_flight launches issued ahead of their outcomes. Throws
/// std::invalid_argument for what is beyond gfnet::limits or makes no sense, before it takes any memory.
Report simulate(const Load& load, const Machine& machine, const Options& options, const CostTable& costs,
                const Poll& poll = {});

/// The usual way: a batch is taken through all its steps, compacted after each, with a sync before the next. `overlap`
/// batches share a device (two host threads, two streams), so that one computes while the other waits. A batch starts
/// when it is full, when its oldest image has waited for `linger`, or when nothing more will come.
Report simulate_per_batch(const Load& load, const Machine& machine, std::int32_t batch, std::int32_t overlap,
                          Seconds linger, const CostTable& costs, const Poll& poll = {});

}  // namespace gfnet

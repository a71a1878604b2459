/// The words of the scheduler. A bare int never crosses its interface where two kinds of number could be mixed up.
#pragma once

#include <chrono>
#include <cstdint>

namespace gfnet {

/// The place that an image in flight has in the arena: 0 .. capacity - 1.
enum class Slot : std::int32_t {};

/// Marks a padded row. Every kernel that takes slots skips it.
inline constexpr Slot no_slot{-1};

/// Names a launch from plan() until complete() or fail(). Never used twice.
enum class LaunchId : std::int64_t {};

/// Durations, and instants on any clock of the caller's that does not run backwards.
using Seconds = std::chrono::duration<double>;

/// A fixed-shape piece of compute: the glance is step 1, the focus is each of the steps 2 .. T.
enum class Stage : std::uint8_t { glance, focus };

/// What the scheduler optimises.
enum class Mode : std::uint8_t {
  throughput,  ///< full batches, no launch waits for the outcome of the one before
  latency,     ///< oldest image first, least mean time to the answer
  deadline,    ///< earliest deadline first; what has not left by its deadline leaves with its newest prediction
};

constexpr std::int32_t index(Slot slot) { return static_cast<std::int32_t>(slot); }

}  // namespace gfnet

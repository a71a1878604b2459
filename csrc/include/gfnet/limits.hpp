/// How large things may be. Far beyond any use, and small enough that a mistake costs an error: no more than a few
/// hundred megabytes are taken, a table is made in less than a second, and no sum overflows.
#pragma once

#include "gfnet/types.hpp"

namespace gfnet::limits {

inline constexpr std::int32_t rows = 1 << 18;            ///< slots of a scheduler; rows of a bucket, a batch, a cover
inline constexpr std::int32_t buckets = 256;             ///< of a stage
inline constexpr std::int32_t steps = 1024;
inline constexpr std::int32_t in_flight = 256;           ///< launches at once; batches that overlap
inline constexpr std::int64_t rows_in_flight = 1 << 22;  ///< launches at once x the largest bucket, on all devices
inline constexpr std::int32_t devices = 256;
inline constexpr std::int64_t images = 1 << 30;          ///< of a simulation
inline constexpr Seconds time{1e9};                      ///< a cost, and the times of a simulation

}  // namespace gfnet::limits

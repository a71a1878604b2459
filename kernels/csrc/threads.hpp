/// How the rows of a call are shared out among the threads that torch computes with.
#pragma once

#include <atomic>
#include <cstdint>

namespace gfnet::pixels {

/// Runs a function with one argument on a number of threads, the caller's among them, and waits: OpenMP's way in.
using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);

/// The team of the OpenMP runtime that this process has loaded; null where there is none, and in a process that has
/// been forked, which has none of its threads and would wait for them.
///
/// Torch's runtime: threads of one's own would share the cores with its own, which wait for work without sleeping, and
/// one linked to this module would be a second one beside it.
Team team();
void set_team(Team team);  // for tests

/// How many workers are worth their start, for `rows` of so many values each.
inline unsigned workers_for(unsigned threads, std::int64_t rows, std::int64_t values) {
  constexpr std::int64_t WORTH = 1 << 18;
  return rows > 1 && rows * values >= WORTH ? threads : 1;
}

/// Calls body(worker, i) for i in 0..count, with workers below `workers` and `count`; body does not throw.
///
/// It is all of the threads or one: OpenMP ends those that a smaller team leaves over, and torch starts them anew.
template <class Body>
void share(unsigned workers, std::int64_t count, Body body) {
  struct Shared {
    Body& body;
    std::int64_t count;
    std::atomic<std::int64_t> next{0};
    std::atomic<unsigned> workers{0};
  } shared{body, count, {}, {}};
  const auto work = [](void* argument) {
    Shared& all = *static_cast<Shared*>(argument);
    std::int64_t i = all.next.fetch_add(1, std::memory_order_relaxed);
    if (i >= all.count) return;
    const unsigned worker = all.workers.fetch_add(1, std::memory_order_relaxed);
    for (; i < all.count; i = all.next.fetch_add(1, std::memory_order_relaxed)) all.body(worker, i);
  };
  if (const Team found = workers > 1 ? team() : nullptr; found != nullptr) {
    found(work, &shared, workers, 0);
  } else {
    work(&shared);
  }
}

}  // namespace gfnet::pixels

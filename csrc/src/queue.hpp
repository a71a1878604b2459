/// What waits, in memory that is taken once: a heap of slots in order of a key, and rows in order of arrival.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "gfnet/types.hpp"

namespace gfnet {

/// Slots in order of a key. A binary heap.
class Heap {
 public:
  explicit Heap(std::int32_t capacity) { heap_.reserve(static_cast<std::size_t>(capacity)); }

  bool empty() const { return heap_.empty(); }
  std::int32_t size() const { return static_cast<std::int32_t>(heap_.size()); }
  Slot head() const { return heap_.front().slot; }

  /// Least key first; of equal keys, least order first.
  void push(double key, std::int64_t order, Slot slot) {
    heap_.push_back({key, order, slot});
    std::ranges::push_heap(heap_, later);
  }

  Slot pop() {
    std::ranges::pop_heap(heap_, later);
    const Slot slot = heap_.back().slot;
    heap_.pop_back();
    return slot;
  }

 private:
  struct Entry {
    double key;
    std::int64_t order;
    Slot slot;
  };
  static bool later(const Entry& a, const Entry& b) {
    return a.key != b.key ? a.key > b.key : a.order > b.order;
  }

  std::vector<Entry> heap_;
};

/// Up to `capacity` values, added at either end and taken from the front.
template <class T>
class Ring {
 public:
  explicit Ring(std::int32_t capacity) : places_(static_cast<std::size_t>(capacity)) {}

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }
  T& front() { return places_[first_]; }
  const T& front() const { return places_[first_]; }

  void push_back(const T& value) {
    const std::size_t place = first_ + size_++;
    places_[place < places_.size() ? place : place - places_.size()] = value;
  }

  void push_front(const T& value) {
    first_ = (first_ > 0 ? first_ : places_.size()) - 1;
    places_[first_] = value;
    ++size_;
  }

  T pop_front() {
    const T value = places_[first_];
    if (++first_ == places_.size()) first_ = 0;
    --size_;
    return value;
  }

 private:
  std::vector<T> places_;
  std::size_t first_ = 0;
  std::size_t size_ = 0;
};

inline constexpr std::int32_t unlimited = std::numeric_limits<std::int32_t>::max();

/// Rows that were queued together, or failed together.
struct Run {
  std::int32_t count = 0;
  std::int32_t limit = unlimited;  ///< rows that a launch of it may have, after a failure
  Seconds queued_at{};
  std::int64_t queued_launch = 0;  ///< how many launches there had been
};

/// Rows in order of arrival, by number: which images they are, others know. What has failed is put back to the front,
/// so that runs with a limit come before all others.
class Fifo {
 public:
  explicit Fifo(std::int32_t capacity) : runs_(capacity) {}

  bool empty() const { return rows_ == 0; }
  std::int32_t size() const { return rows_; }
  const Run& head() const { return runs_.front(); }

  void push_back(const Run& run) {
    runs_.push_back(run);
    rows_ += run.count;
  }

  void push_front(const Run& run) {
    runs_.push_front(run);
    rows_ += run.count;
  }

  /// Takes at most `most` rows; if the head has a limit, of the head only. What comes back tells how many they are,
  /// and the rest of the first.
  Run take(std::int32_t most) {
    Run taken = head();
    taken.count = 0;
    do {
      Run& first = runs_.front();
      const std::int32_t part = std::min(first.count, most - taken.count);
      taken.count += part;
      first.count -= part;
      if (first.count == 0) runs_.pop_front();
    } while (taken.count < most && taken.limit == unlimited && !runs_.empty());
    rows_ -= taken.count;
    return taken;
  }

 private:
  Ring<Run> runs_;
  std::int32_t rows_ = 0;
};

}  // namespace gfnet

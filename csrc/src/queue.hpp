/// Slots in order of a key. A binary heap whose memory is taken once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "gfnet/types.hpp"

namespace gfnet {

class Queue {
 public:
  explicit Queue(std::int32_t capacity) { heap_.reserve(static_cast<std::size_t>(capacity)); }

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

  /// Takes out every slot for which `leaves(slot)` holds.
  template <class Predicate>
  void remove_if(Predicate leaves) {
    std::erase_if(heap_, [&](const Entry& entry) { return leaves(entry.slot); });
    std::ranges::make_heap(heap_, later);
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

}  // namespace gfnet

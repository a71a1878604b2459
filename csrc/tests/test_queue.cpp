/// The heap against sorting, the ring against a deque, and how runs are taken.
#include "../src/queue.hpp"

#include <deque>
#include <random>
#include <tuple>

#include "check.hpp"

using namespace gfnet;

namespace {

void heap() {
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    const int n = 1 + int(random() % 60);
    Heap heap(n);
    std::vector<std::tuple<double, std::int64_t, int>> expected;
    for (int slot = 0; slot < n; ++slot) {
      const double key = double(random() % 8);
      const std::int64_t order = slot * 7 % 61;
      heap.push(key, order, Slot{slot});
      expected.emplace_back(key, order, slot);
    }
    std::ranges::sort(expected);
    CHECK(heap.size() == int(expected.size()));
    for (const auto& [key, order, slot] : expected) {
      CHECK(heap.head() == Slot{slot});
      CHECK(heap.pop() == Slot{slot});
    }
    CHECK(heap.empty());
  }
}

void ring() {
  std::mt19937 random(2);
  Ring<int> ring(7);
  std::deque<int> expected;
  for (int i = 0; i < 10000; ++i) {
    const bool full = expected.size() == 7;
    if (const auto kind = random() % 3; kind == 0 && !full) {
      ring.push_back(i), expected.push_back(i);
    } else if (kind == 1 && !full) {
      ring.push_front(i), expected.push_front(i);
    } else if (!expected.empty()) {
      CHECK(ring.front() == expected.front() && ring.pop_front() == expected.front());
      expected.pop_front();
    }
    CHECK(ring.size() == expected.size() && ring.empty() == expected.empty());
  }
}

void fifo() {
  Fifo fifo(8);
  fifo.push_back({.count = 3, .queued_launch = 1});
  fifo.push_back({.count = 4, .queued_launch = 2});
  const Run both = fifo.take(5);
  CHECK(both.count == 5 && both.queued_launch == 1 && fifo.size() == 2 && fifo.head().queued_launch == 2);
  fifo.push_front({.count = 5, .limit = 3, .queued_launch = 1});
  CHECK(fifo.take(3).count == 3 && fifo.head().limit == 3);
  CHECK(fifo.take(3).count == 2 && fifo.head().limit == unlimited);  // not of the next one
  CHECK(fifo.take(9).count == 2 && fifo.empty());
}

}  // namespace

int main() {
  heap();
  ring();
  fifo();
}

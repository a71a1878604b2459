/// The queue against sorting.
#include "../src/queue.hpp"

#include <random>
#include <tuple>

#include "check.hpp"

using namespace gfnet;

int main() {
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    const int n = 1 + int(random() % 60);
    Queue queue(n);
    std::vector<std::tuple<double, std::int64_t, int>> expected;
    for (int slot = 0; slot < n; ++slot) {
      const double key = double(random() % 8);
      const std::int64_t order = slot * 7 % 61;
      queue.push(key, order, Slot{slot});
      expected.emplace_back(key, order, slot);
    }
    queue.remove_if([](Slot slot) { return index(slot) % 3 == 0; });
    std::erase_if(expected, [](const auto& entry) { return std::get<2>(entry) % 3 == 0; });
    std::ranges::sort(expected);
    CHECK(queue.size() == int(expected.size()));
    for (const auto& [key, order, slot] : expected) {
      CHECK(queue.head() == Slot{slot});
      CHECK(queue.pop() == Slot{slot});
    }
    CHECK(queue.empty());
  }
}

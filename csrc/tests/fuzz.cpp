/// Random operations on random schedulers, each answer held against the model. `fuzz OPERATIONS [SEED]`.
///
/// An episode draws a mode, options and a cost table, makes up to a few thousand random calls in any order, then
/// closes and runs to the end: every image must come out.
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "model.hpp"

using namespace gfnet;

namespace {

class Fuzz {
 public:
  static inline std::int64_t images = 0, launches = 0;

  explicit Fuzz(std::uint64_t seed) : random_(seed) {}

  std::int64_t episode() {
    Options options;
    options.capacity = pick(0, 3) == 0 ? pick(1, 4) : pick(1, 48);
    options.steps = pick(1, 6);
    options.mode = static_cast<Mode>(pick(0, 2));
    options.in_flight = pick(1, 4);
    options.patience = pick(1, 24);
    const double lingers[] = {0, 0.5, 5, std::numeric_limits<double>::infinity()};
    options.linger = Seconds{lingers[pick(0, 3)]};
    Checked checked(options, CostTable(buckets(), buckets()));

    const double exit_share = chance(0.3) ? 0.95 : pick(0, 10) / 10.0;
    const double fail_share = pick(0, 1) == 0 ? 0 : 0.2;
    const double patience_of_caller = chance(0.5) ? 3.0 : 30.0;
    const auto leaves = [&](std::int32_t step) -> std::optional<Departure> {
      if (chance(exit_share)) return Departure{no_slot, step, Reason::exited};
      if (chance(0.02)) return Departure{no_slot, step - pick(0, 1), Reason{pick(2, 4)}};
      return {};
    };
    const int operations = pick(1, 3000);
    const double rarely = pick(0, 2) / 20.0;
    const double tick = chance(0.5) ? 0.1 : 1;
    // admit, plan, land, collect, expire, rare: how often differs from episode to episode
    std::discrete_distribution<int> kind({real(0.5, 4), real(1, 4), real(0.5, 4), real(0.5, 3), real(0, 1), rarely});
    for (int i = 0; i < operations; ++i) {
      if (chance(0.3)) now_ += real(0, tick);
      switch (kind(random_)) {
        case 0: checked.admit(std::size_t(pick(0, 12)), now_, patience_of_caller); break;
        case 1: checked.plan(now_); break;
        case 2: land(checked, leaves, fail_share); break;
        case 3: checked.collect(std::size_t(pick(0, 60))); break;
        case 4: checked.expire(now_); break;
        default: rare(checked);
      }
      if (i % 256 == 0) checked.audit();
    }
    return operations + finish(checked, options.capacity, leaves);
  }

 private:
  int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(random_); }
  bool chance(double share) { return real(0, 1) < share; }

  std::vector<Bucket> buckets() {
    std::vector<Bucket> all;
    const int sizes = pick(1, 5);
    std::int32_t size = 0;
    for (int i = 0; i < sizes; ++i) {
      size += pick(1, 8);
      all.push_back({size, Seconds{real(0.05, 0.3) + (chance(0.8) ? 0.05 * size : real(0, 1))}});
    }
    return all;
  }

  template <class Leaves>
  void land(Checked& checked, Leaves leaves, double fail_share) {
    if (checked.flights().empty()) return;
    const auto which = std::size_t(pick(0, int(checked.flights().size()) - 1));
    if (chance(0.1)) checked.misuse(which, pick(0, 11), now_);
    if (chance(fail_share)) {
      checked.fail(which, now_);
    } else {
      checked.complete(which, now_, leaves);
    }
  }

  void rare(Checked& checked) {
    if (chance(0.4)) {
      checked.close();
    } else {
      checked.open();
    }
  }

  /// Closes and runs to the end, which must come.
  template <class Leaves>
  std::int64_t finish(Checked& checked, std::int32_t capacity, Leaves leaves) {
    checked.close();
    std::int64_t calls = 0;
    for (;; ++calls) {
      CHECK(calls < 100000);
      const Plan plan = checked.plan(now_);
      if (plan.verdict == Verdict::done) break;
      CHECK(plan.verdict != Verdict::starved);
      if (plan.verdict == Verdict::wait) checked.complete(0, now_ += 0.01, leaves);
    }
    checked.audit();
    checked.collect(1000);
    CHECK(checked.collected() == checked.admitted());
    CHECK(checked.scheduler().occupancy().free == capacity);
    checked.audit();
    images += checked.admitted();
    launches += checked.scheduler().statistics().launches;
    return calls;
  }

  std::mt19937_64 random_;
  double now_ = std::array{-1e3, 0.0, 1.7e9}[std::size_t(pick(0, 2))];
};

}  // namespace

int main(int argc, char** argv) {
  const long long wanted = argc > 1 ? std::atoll(argv[1]) : 200000;
  const long long seed = argc > 2 ? std::atoll(argv[2]) : 1;
  const auto begin = std::chrono::steady_clock::now();
  long long done = 0, episodes = 0;
  for (; done < wanted; ++episodes) done += Fuzz(std::uint64_t(seed) * 1000003 + std::uint64_t(episodes)).episode();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("%lld operations in %lld episodes, seed %lld: %lld images, %lld launches, no violation, %.1f s\n", done,
              episodes, seed, static_cast<long long>(Fuzz::images), static_cast<long long>(Fuzz::launches), took.count());
}

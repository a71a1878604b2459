/// Every mode under every kind of arrival answers every image once; figures are checked in the Python tests.
#include "gfnet/simulation.hpp"

#include "helpers.hpp"

using namespace gfnet;

int main() {
  const CostTable costs = same({{1, 5e-5}, {8, 8e-5}, {32, 1.2e-4}});
  for (const Arrivals arrivals : {Arrivals::at_once, Arrivals::poisson, Arrivals::bursts}) {
    for (const Mode mode : {Mode::throughput, Mode::latency, Mode::deadline}) {
      for (const std::int32_t devices : {1, 3}) {
        Load load{.images = 5000, .exits = {0.6, 0.2, 0.2}, .arrivals = arrivals, .rate = 5e4, .burst = 70};
        load.allowed = Seconds{1e-3};
        Options options;
        options.capacity = 95;
        options.mode = mode;
        options.linger = Seconds{1e-3};
        const Machine machine{.devices = devices, .sync = Seconds{6e-5}, .issue = Seconds{5e-6}};
        const Report merged = simulate(load, machine, options, costs);
        CHECK(merged.images == 5000);
        CHECK(merged.unanswered == 0 || mode == Mode::deadline);
        CHECK(merged.share_of_ideal() <= merged.occupancy() && merged.occupancy() <= 1);
        const Report per_batch = simulate_per_batch(load, machine, 32, devices, options.linger, costs);
        CHECK(per_batch.images == 5000);
        CHECK(arrivals != Arrivals::at_once || per_batch.throughput() < merged.throughput() || mode != Mode::throughput);
      }
    }
  }
  CHECK(simulate(Load{.images = 0, .exits = {1.0}}, Machine{}, Options{}, costs).images == 0);
  CHECK_THROWS(std::invalid_argument, simulate(Load{.images = 1, .exits = {0.5}}, Machine{}, Options{}, costs));
}

/// gfnet_fast._scheduler: the scheduler for Python, with numpy arrays of int32 in and out.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "gfnet/cover.hpp"

namespace py = pybind11;
using namespace gfnet;

namespace {

using Costs = std::vector<std::pair<std::int32_t, double>>;

std::vector<Bucket> to_buckets(const Costs& costs) {
  std::vector<Bucket> buckets;
  for (const auto& [size, seconds] : costs) buckets.push_back({size, Seconds{seconds}});
  return buckets;
}

Costs from_buckets(std::span<const Bucket> buckets) {
  Costs costs;
  for (const Bucket& bucket : buckets) costs.emplace_back(bucket.size, bucket.cost.count());
  return costs;
}

}  // namespace

PYBIND11_MODULE(_scheduler, m, py::mod_gil_not_used()) {
  m.doc() = "Plans which images run next, in which batch; computes nothing.";

  py::enum_<Stage>(m, "Stage").value("GLANCE", Stage::glance).value("FOCUS", Stage::focus);

  py::class_<CostTable>(m, "CostTable")
      .def(py::init([](const Costs& glance, const Costs& focus) {
             return CostTable(to_buckets(glance), to_buckets(focus));
           }),
           py::arg("glance"), py::arg("focus"))
      .def_property_readonly("glance", [](const CostTable& t) { return from_buckets(t.buckets(Stage::glance)); })
      .def_property_readonly("focus", [](const CostTable& t) { return from_buckets(t.buckets(Stage::focus)); });
}

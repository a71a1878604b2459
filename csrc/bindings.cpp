/// gfnet_fast._scheduler: the scheduler for Python, with numpy arrays of int32 in and out.
///
/// The calls of the loop keep the interpreter lock: they take microseconds, and giving it up would let any busy
/// thread hold it for a switch interval, 5 ms. The simulations run for seconds and give it up; what they read
/// cannot be changed from Python. A free-threaded interpreter turns its lock on for this module: without it another
/// thread could change an array while it is read, and complete a launch whose plan is still being copied.
#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "gfnet/cover.hpp"

using namespace gfnet;
using namespace py::literals;

namespace {

using Pairs = Items<std::pair<std::int32_t, double>, limits::buckets>;
using Shares = Items<double, limits::steps>;

std::vector<Bucket> to_buckets(const Pairs& pairs, const char* name) {
  std::vector<Bucket> buckets;
  for (const auto& [size, seconds] : pairs.checked(name)) buckets.push_back({size, Seconds{seconds}});
  return buckets;
}

std::vector<std::pair<std::int32_t, double>> from_buckets(std::span<const Bucket> buckets) {
  std::vector<std::pair<std::int32_t, double>> costs;
  for (const Bucket& bucket : buckets) costs.emplace_back(bucket.size, bucket.cost.count());
  return costs;
}

template <class Values, class Project>
Ints to_array(const Values& values, Project project) {
  Ints array(static_cast<py::ssize_t>(values.size()));
  std::ranges::transform(values, array.mutable_data(), [&](const auto& v) { return static_cast<std::int32_t>(project(v)); });
  return array;
}

/// What plans share: the words' members, and the array of a plan that names no rows.
struct Shared {
  std::array<py::object, 4> verdicts;
  std::array<py::object, 2> stages;
  Ints none;
  PyDepartures nobody;
};

Shared make_shared(const py::module_& m) {
  const py::object verdict = m.attr("Verdict"), stage = m.attr("Stage");
  Ints none(0);
  none.attr("setflags")("write"_a = false);
  return {{verdict.attr("LAUNCH"), verdict.attr("WAIT"), verdict.attr("STARVED"), verdict.attr("DONE")},
          {stage.attr("GLANCE"), stage.attr("FOCUS")},
          none,
          {none, none, none}};
}

PyPlan plan(const Shared& shared, Scheduler& scheduler, double now) {
  const Plan plan = scheduler.plan(Seconds{now});
  const bool named = !plan.slots.empty();
  return {plan, shared.verdicts[static_cast<std::size_t>(plan.verdict)],
          shared.stages[static_cast<std::size_t>(plan.stage)],
          named ? to_array(plan.slots, std::identity{}) : shared.none,
          named ? to_array(plan.steps, std::identity{}) : shared.none};
}

Ints admit(Scheduler& scheduler, py::ssize_t count, double now, const py::object& deadlines) {
  if (count < 0) throw std::invalid_argument("count: expected 0 or more images, got " + std::to_string(count));
  // No more than fit: what is asked for beyond that costs no memory.
  const auto asked = static_cast<std::size_t>(std::min<py::ssize_t>(count, scheduler.capacity()));
  std::vector<Slot> slots(asked);
  std::vector<Seconds> times;
  if (!deadlines.is_none()) times = to_times(deadlines, static_cast<std::size_t>(count), asked);
  slots.resize(scheduler.admit(slots, Seconds{now}, times));
  return to_array(slots, std::identity{});
}

void complete(Scheduler& scheduler, std::int64_t id, const py::object& left, double now) {
  static_assert(sizeof(Departure) == 3 * sizeof(std::int32_t));
  const auto records = to_records(left);
  const auto* departures = reinterpret_cast<const Departure*>(records.data());
  scheduler.complete(LaunchId{id}, {departures, static_cast<std::size_t>(records.shape(0))}, Seconds{now});
}

PyDepartures collect(const PyDepartures& nobody, Scheduler& scheduler) {
  std::vector<Departure> left;
  std::array<Departure, 256> part;
  while (const std::size_t some = scheduler.collect(part)) left.insert(left.end(), part.begin(), part.begin() + some);
  if (left.empty()) return nobody;
  return {to_array(left, [](const Departure& d) { return d.slot; }),
          to_array(left, [](const Departure& d) { return d.steps; }),
          to_array(left, [](const Departure& d) { return d.reason; })};
}

std::pair<std::vector<std::int32_t>, double> cover(const Pairs& buckets, std::int32_t rows, Objective objective) {
  const Cover best(to_buckets(buckets, "buckets"), rows, objective);
  std::vector<std::int32_t> sizes;
  for (std::int32_t left = rows; left > 0; left -= sizes.back()) sizes.push_back(best.first(left).size);
  return {sizes, best.value(rows).count()};
}

/// Runs a simulation without the interpreter lock, taking it now and then so that Ctrl-C ends the simulation.
/// Signals are the main thread's; another thread does not ask for the lock, which may be gone at exit.
template <class Simulation>
Report run(Simulation simulation) {
  const auto threading = py::module_::import("threading");
  const bool main = threading.attr("get_ident")().equal(threading.attr("main_thread")().attr("ident"));
  const Poll signals = [] {
    const py::gil_scoped_acquire lock;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  };
  const py::gil_scoped_release unlocked;
  return simulation(main ? signals : Poll{});
}

void bind_words(py::module_& m) {
  py::native_enum<Stage>(m, "Stage", "enum.Enum").value("GLANCE", Stage::glance).value("FOCUS", Stage::focus).finalize();
  py::native_enum<Mode>(m, "Mode", "enum.Enum")
      .value("THROUGHPUT", Mode::throughput)
      .value("LATENCY", Mode::latency)
      .value("DEADLINE", Mode::deadline).finalize();
  py::native_enum<Verdict>(m, "Verdict", "enum.Enum")
      .value("LAUNCH", Verdict::launch)
      .value("WAIT", Verdict::wait)
      .value("STARVED", Verdict::starved)
      .value("DONE", Verdict::done).finalize();
  py::native_enum<Reason>(m, "Reason", "enum.Enum")
      .value("EXITED", Reason::exited)
      .value("LAST_STEP", Reason::last_step)
      .value("DEADLINE", Reason::deadline)
      .value("ERROR", Reason::error)
      .value("CANCELLED", Reason::cancelled).finalize();
  py::native_enum<Objective>(m, "Objective", "enum.Enum")
      .value("DEVICE_TIME", Objective::device_time)
      .value("MEAN_WAIT", Objective::mean_wait).finalize();
}

void bind_values(py::module_& m) {
  py::class_<CostTable>(m, "CostTable", "Seconds per launch by stage and bucket: pairs of (rows, seconds).")
      .def(py::init([](const Pairs& glance, const Pairs& focus) {
             return CostTable(to_buckets(glance, "glance"), to_buckets(focus, "focus"));
           }),
           "glance"_a, "focus"_a)
      .def_property_readonly("glance", [](const CostTable& t) { return from_buckets(t.buckets(Stage::glance)); })
      .def_property_readonly("focus", [](const CostTable& t) { return from_buckets(t.buckets(Stage::focus)); });

  py::class_<PyPlan>(m, "Plan", "What to do next.")
      .def_readonly("verdict", &PyPlan::verdict)
      .def_property_readonly("id", [](const PyPlan& p) { return static_cast<std::int64_t>(p.plan.id); })
      .def_readonly("stage", &PyPlan::stage)
      .def_property_readonly("bucket", [](const PyPlan& p) { return p.plan.bucket; })
      .def_property_readonly("count", [](const PyPlan& p) { return p.plan.count; })
      .def_property_readonly("wake_at", [](const PyPlan& p) { return p.plan.wake_at.count(); })
      .def_readonly("slots", &PyPlan::slots)
      .def_readonly("steps", &PyPlan::steps);

  py::class_<PyDepartures>(m, "Departures", "Who left, after how many steps, and why.")
      .def_readonly("slots", &PyDepartures::slots)
      .def_readonly("steps", &PyDepartures::steps)
      .def_readonly("reasons", &PyDepartures::reasons)
      .def("__len__", [](const PyDepartures& d) { return d.slots.size(); });

  py::class_<Occupancy>(m, "Occupancy", "Images by where they are.")
      .def_readonly("free", &Occupancy::free)
      .def_readonly("waiting", &Occupancy::waiting)
      .def_readonly("ready", &Occupancy::ready)
      .def_readonly("in_flight", &Occupancy::in_flight)
      .def_readonly("departed", &Occupancy::departed);

  py::class_<Statistics>(m, "Statistics", "Counts since the start.")
      .def_readonly("admitted", &Statistics::admitted)
      .def_readonly("passes", &Statistics::passes)
      .def_readonly("padded_rows", &Statistics::padded_rows)
      .def_readonly("launches", &Statistics::launches)
      .def_readonly("failures", &Statistics::failures)
      .def_readonly("waits", &Statistics::waits)
      .def_readonly("glance_launches", &Statistics::glance_launches)
      .def_readonly("focus_launches", &Statistics::focus_launches)
      .def_property_readonly("departed", [](const Statistics& s) { return std::to_array(s.departed); })
      .def_property_readonly("fill", &Statistics::fill);
}

void bind_scheduler(py::module_& m) {
  const auto shared = std::make_shared<const Shared>(make_shared(m));
  py::class_<Scheduler>(m, "Scheduler", "Plans which slots run next; computes nothing. Times are seconds on any clock.")
      .def(py::init([](const CostTable& costs, std::int32_t capacity, std::int32_t steps, Mode mode,
                       std::int32_t in_flight, std::int32_t patience, double linger) {
             return std::make_unique<Scheduler>(Options{capacity, steps, mode, in_flight, patience, Seconds{linger}}, costs);
           }),
           "costs"_a, py::kw_only(), "capacity"_a, "steps"_a, "mode"_a = Mode::throughput, "in_flight"_a = 2,
           "patience"_a = 64, "linger"_a = 0.005)
      .def("admit", &admit, "count"_a, "now"_a, "deadlines"_a = py::none(),
           "Admit up to `count` images; their slots, [admitted] int32. Fewer than asked for: there is no more room.")
      .def("plan", [shared](Scheduler& s, double now) { return plan(*shared, s, now); }, "now"_a,
           "Choose the next launch and count it as in flight.")
      .def("complete", &complete, "id"_a, "left"_a, "now"_a,
           "A launch ended; `left` [k, 3], integers (slot, steps, reason): these leave, its other rows go on.")
      .def("fail", [](Scheduler& s, std::int64_t id, double now) { s.fail(LaunchId{id}, Seconds{now}); }, "id"_a,
           "now"_a, "A launch of two rows or more failed: its images are retried in launches of half as many.")
      .def("expire", [](Scheduler& s, double now) { s.expire(Seconds{now}); }, "now"_a,
           "Deadline mode: let images go that cannot take another step in time.")
      .def("collect", [shared](Scheduler& s) { return collect(shared->nobody, s); },
           "Everything that has left since the last call; frees the slots.")
      .def("close", &Scheduler::close, "Nothing more will be admitted: pad instead of waiting for company.")
      .def("open", &Scheduler::open, "Admit again.")
      .def_property_readonly("capacity", &Scheduler::capacity)
      .def("occupancy", &Scheduler::occupancy)
      .def("statistics", &Scheduler::statistics);
}

void bind_simulation(py::module_& m) {
  py::native_enum<Arrivals>(m, "Arrivals", "enum.Enum")
      .value("AT_ONCE", Arrivals::at_once)
      .value("POISSON", Arrivals::poisson)
      .value("BURSTS", Arrivals::bursts).finalize();

  py::class_<Load>(m, "Load", "The images to simulate: how many, when they arrive, at which step they leave.")
      .def(py::init([](std::int64_t images, const Shares& exits, Arrivals arrivals, double rate, std::int32_t burst,
                       double allowed, std::uint64_t seed) {
             return Load{images, exits.checked("exits"), arrivals, rate, burst, Seconds{allowed}, seed};
           }),
           "images"_a, "exits"_a, py::kw_only(), "arrivals"_a = Arrivals::at_once, "rate"_a = 0.0, "burst"_a = 1,
           "allowed"_a = 0.0, "seed"_a = 1);

  py::class_<Machine>(m, "Machine", "Devices, the time from a launch's end to its outcome, host time per launch.")
      .def(py::init([](std::int32_t devices, double sync, double issue) {
             return Machine{devices, Seconds{sync}, Seconds{issue}};
           }),
           py::kw_only(), "devices"_a = 1, "sync"_a = 0.0, "issue"_a = 0.0);

  const auto seconds = [](Seconds Report::* time) { return [time](const Report& r) { return (r.*time).count(); }; };
  py::class_<Report>(m, "Report", "What a simulation measured. Times in seconds.")
      .def_readonly("images", &Report::images)
      .def_readonly("unanswered", &Report::unanswered)
      .def_readonly("passes", &Report::passes)
      .def_readonly("padded_rows", &Report::padded_rows)
      .def_readonly("launches", &Report::launches)
      .def_readonly("waits", &Report::waits)
      .def_property_readonly("makespan", seconds(&Report::makespan))
      .def_property_readonly("mean", seconds(&Report::mean))
      .def_property_readonly("p50", seconds(&Report::p50))
      .def_property_readonly("p90", seconds(&Report::p90))
      .def_property_readonly("p99", seconds(&Report::p99))
      .def_property_readonly("p999", seconds(&Report::p999))
      .def_property_readonly("worst", seconds(&Report::worst))
      .def_property_readonly("throughput", &Report::throughput)
      .def_property_readonly("share_of_ideal", &Report::share_of_ideal)
      .def_property_readonly("occupancy", &Report::occupancy)
      .def_property_readonly("padding", &Report::padding);

  m.def("simulate",
        [](const Load& load, const Machine& machine, const CostTable& costs, std::int32_t capacity, Mode mode,
           std::int32_t in_flight, std::int32_t patience, double linger) {
          const Options options{capacity, 1, mode, in_flight, patience, Seconds{linger}};  // steps: the load's
          return run([&](const Poll& poll) { return simulate(load, machine, options, costs, poll); });
        },
        "load"_a, "machine"_a, "costs"_a, py::kw_only(), "capacity"_a, "mode"_a = Mode::throughput, "in_flight"_a = 2,
        "patience"_a = 64, "linger"_a = 0.005, "Step-merged batches on the scheduler.");
  m.def("simulate_per_batch",
        [](const Load& load, const Machine& machine, const CostTable& costs, std::int32_t batch,
           std::int32_t overlap, double linger) {
          return run([&](const Poll& poll) {
            return simulate_per_batch(load, machine, batch, overlap, Seconds{linger}, costs, poll);
          });
        },
        "load"_a, "machine"_a, "costs"_a, py::kw_only(), "batch"_a, "overlap"_a = 1, "linger"_a = 0.005,
        "Batches that stay together, compacted after each step, with a sync.");
}

}  // namespace

PYBIND11_MODULE(_scheduler, m) {
  m.doc() = "Plans which images run next, in which batch; computes nothing.";
  bind_words(m);
  bind_values(m);
  bind_scheduler(m);
  bind_simulation(m);
  m.def("capacity_without_waits", &capacity_without_waits, "costs"_a, "in_flight"_a = 2,
        "The least capacity with which throughput mode never waits for an outcome while the stream lasts.");
  m.def("cover", &cover, "buckets"_a, "rows"_a, "objective"_a = Objective::device_time,
        "The best launches for `rows` rows: their sizes in order, and the objective's value.");
}

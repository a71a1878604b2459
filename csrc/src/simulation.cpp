#include "gfnet/simulation.hpp"

#include <deque>
#include <numeric>
#include <utility>

#include "checks.hpp"
#include "gfnet/cover.hpp"
#include "load.hpp"

namespace gfnet {
namespace {

double best_time_per_row(const CostTable& costs, Stage stage) {
  const Bucket& best = costs.best_rate(stage, std::numeric_limits<std::int32_t>::max());
  return best.cost.count() / best.size;
}

/// What both simulations count.
struct Account {
  Account(const CostTable& costs, const Poll& caller)
      : per_row{best_time_per_row(costs, Stage::glance), best_time_per_row(costs, Stage::focus)}, poll(caller) {}

  /// Lets the caller stop the simulation.
  void pause() {
    const std::int64_t work = report.passes + report.images;
    if (poll && work - polled >= 1 << 16) {
      polled = work;
      poll();
    }
  }

  void launched(Stage stage, std::int32_t rows, std::int32_t bucket, double cost) {
    ++report.launches;
    report.passes += rows;
    report.padded_rows += bucket - rows;
    report.busy += Seconds{cost};
    report.ideal += Seconds{per_row[static_cast<std::size_t>(stage)] * rows};
  }

  void answered(double arrived, double now, bool prediction) {
    ++report.images;
    if (!prediction) ++report.unanswered;
    latencies.add(now - arrived);
    last = std::max(last, now);
  }

  Report finish(double first_arrival, std::int32_t devices) {
    report.devices = devices;
    report.makespan = Seconds{std::max(last - first_arrival, std::numeric_limits<double>::min())};
    latencies.report(report);
    return report;
  }

  std::array<double, 2> per_row;
  const Poll& poll;
  std::int64_t polled = 0;  ///< the work done by then
  Report report;
  Latencies latencies;
  double last = 0;
};

/// One device and its host loop. Launches run in the order of issue; act() is one round of the engine's loop.
class Device {
 public:
  Device(const Load& load, const Machine& machine, const Options& options, const CostTable& costs)
      : load_(load),
        machine_(machine),
        options_(options),
        costs_(costs),
        glance_batch_(costs.best_rate(Stage::glance, options.capacity).size),
        scheduler_(options, costs),
        arrived_(static_cast<std::size_t>(options.capacity)),
        departures_(arrived_.size()),
        slots_(static_cast<std::size_t>(glance_batch_)),
        deadlines_(options.mode == Mode::deadline ? slots_.size() : 0) {}

  /// When there is next something to do.
  double next(const Source& source) const {
    if (done_) return never;
    double time = wake_at_;
    if (!flight_.empty()) time = std::min(time, flight_.front().end + machine_.sync.count());
    const bool room = static_cast<std::int32_t>(flight_.size()) < options_.in_flight;
    if ((room || options_.mode == Mode::deadline) && wanted() > 0) time = std::min(time, source.next());
    if (room && source.over() && !closed_) time = host_;  // to hear that nothing more will come
    return std::max(time, host_);
  }

  /// Images that need a step. Of devices that could act at the same time, the one with the fewest does.
  std::int32_t queued() const {
    const Occupancy places = scheduler_.occupancy();
    return places.waiting + places.ready;
  }

  void act(double now, Source& source, Exits& exits, Account& account) {
    host_ = now;
    while (!flight_.empty() && flight_.front().end + machine_.sync.count() <= now) land(now, exits);
    Plan plan;
    do {
      leave(now, account);
      admit(now, source);
      plan = scheduler_.plan(Seconds{now});
      if (plan.verdict == Verdict::launch) launch(plan, account);
    } while (plan.verdict == Verdict::launch);
    leave(now, account);
    wake_at_ = plan.wake_at.count();
    done_ = plan.verdict == Verdict::done;
  }

  std::int64_t waits() const { return scheduler_.statistics().waits; }

 private:
  struct Flight {
    Plan plan;
    double end;
  };

  /// How many images to take at once: a glance batch, so that devices share. Beyond the next one only where
  /// deadlines are to be met, because a scheduler can plan only for what it has been told of.
  std::int32_t wanted() const {
    const Occupancy places = scheduler_.occupancy();
    return std::min(places.free, glance_batch_ - (options_.mode == Mode::deadline ? 0 : places.waiting));
  }

  void admit(double now, Source& source) {
    const auto most = static_cast<std::size_t>(std::max(0, wanted()));
    std::size_t taken = 0;
    taken_.clear();
    for (; taken < most && source.next() <= now; ++taken) {
      taken_.push_back(source.take());
      if (!deadlines_.empty()) deadlines_[taken] = Seconds{taken_.back()} + load_.allowed;
    }
    if (taken > 0) {
      scheduler_.admit(std::span(slots_).first(taken), Seconds{now},
                       std::span(deadlines_).first(deadlines_.empty() ? 0 : taken));
      for (std::size_t i = 0; i < taken; ++i) arrived_[static_cast<std::size_t>(index(slots_[i]))] = taken_[i];
    }
    if (source.over() && !closed_) {
      scheduler_.close();
      closed_ = true;
    }
  }

  void launch(const Plan& plan, Account& account) {
    const double cost = std::ranges::find(costs_.buckets(plan.stage), plan.bucket, &Bucket::size)->cost.count();
    host_ += machine_.issue.count();
    device_free_ = std::max(host_, device_free_) + cost;
    flight_.push_back({plan, device_free_});
    account.launched(plan.stage, plan.count, plan.bucket, cost);
  }

  /// The rows of the launch, at its end: those that the plan names, or as many as it counts from those that are ready.
  /// Draws who leaves; the others are ready for more.
  void land(double now, Exits& exits) {
    const Plan& plan = flight_.front().plan;
    left_.clear();
    for (std::size_t row = 0; row < static_cast<std::size_t>(plan.count); ++row) {
      Departure image{};
      if (plan.slots.empty()) {
        image = ready_.front();
        ready_.pop_front();
        ++image.steps;
      } else {
        image = {plan.slots[row], plan.steps[row], Reason::exited};
      }
      if (exits.leaves(image.steps)) {
        left_.push_back(image);
      } else if (options_.mode == Mode::throughput) {
        ready_.push_back(image);
      }
    }
    scheduler_.complete(plan.id, left_, Seconds{now});
    flight_.pop_front();
  }

  void leave(double now, Account& account) {
    const std::size_t left = scheduler_.collect(departures_);
    for (const Departure& departure : std::span(departures_).first(left)) {
      account.answered(arrived_[static_cast<std::size_t>(index(departure.slot))], now, departure.steps > 0);
    }
  }

  const Load& load_;
  const Machine& machine_;
  const Options& options_;
  const CostTable& costs_;
  std::int32_t glance_batch_;
  Scheduler scheduler_;
  std::vector<double> arrived_;  ///< by slot
  std::vector<Departure> departures_;
  std::vector<Slot> slots_;
  std::vector<Seconds> deadlines_;
  std::vector<double> taken_;
  std::vector<Departure> left_;  ///< with a launch
  std::deque<Departure> ready_;  ///< throughput mode: the device's ring, with the steps that they have taken
  std::deque<Flight> flight_;
  double host_ = 0;  ///< the host loop is busy until then
  double device_free_ = 0;
  double wake_at_ = never;
  bool closed_ = false;
  bool done_ = false;
};

/// A batch that stays together: the arrival times of the images still in it.
struct Batch {
  void fill(Source& source, std::int32_t size, double linger) {
    step = 1;
    if (source.over()) {
      now = never;
      return;
    }
    const double closes = std::max(now, source.next() + linger);
    const auto full = [&] { return static_cast<std::int32_t>(inside.size()) == size || source.over(); };
    while (!full() && source.next() <= closes) inside.push_back(source.take());
    now = std::max(now, full() ? inside.back() : closes);
  }

  std::vector<double> inside;
  std::int32_t step = 1;
  double now = 0;
};

void check(const Load& load, const Machine& machine) {
  check_range("images", load.images, std::int64_t{0}, limits::images);
  const std::size_t steps = load.exits.size();
  if (steps < 1 || steps > std::size_t{limits::steps}) {
    refuse("exits", "1 to " + text(limits::steps) + " steps", text(steps));
  }
  for (const double share : load.exits) check_range("exits", share, 0.0, 1.0);
  const double total = std::accumulate(load.exits.begin(), load.exits.end(), 0.0);
  if (std::abs(total - 1) > 1e-6) refuse("exits", "shares that sum to one", text(total));
  if (load.arrivals != Arrivals::at_once) {
    check_range("rate", load.rate, 1 / limits::time.count(), std::numeric_limits<double>::max());
  }
  check_range("burst", load.burst, 1, std::numeric_limits<std::int32_t>::max());
  check_range("allowed", load.allowed, limits::time);
  check_range("devices", machine.devices, 1, limits::devices);
  check_range("sync", machine.sync, limits::time);
  check_range("issue", machine.issue, limits::time);
}

}  // namespace

Report simulate(const Load& load, const Machine& machine, const Options& options, const CostTable& costs,
                const Poll& poll) {
  check(load, machine);
  Options with_steps = options;
  with_steps.steps = static_cast<std::int32_t>(load.exits.size());
  checked(with_steps, costs);
  check_range("devices x capacity", machine.devices * with_steps.capacity, 1, limits::rows);
  check_range("devices x in_flight x the largest bucket", machine.devices * rows_in_flight(with_steps, costs),
              std::int64_t{1}, limits::rows_in_flight);
  Source source(load);
  Exits exits(load);
  Account account(costs, poll);
  const double first = source.over() ? 0 : source.next();
  std::deque<Device> devices;
  for (std::int32_t i = 0; i < machine.devices; ++i) devices.emplace_back(load, machine, with_steps, costs);
  for (;; account.pause()) {
    const auto device = std::ranges::min_element(
        devices, {}, [&](const Device& d) { return std::pair(d.next(source), d.queued()); });
    const double now = device->next(source);
    if (now == never) break;
    device->act(now, source, exits, account);
  }
  for (const Device& device : devices) account.report.waits += device.waits();
  return account.finish(first, machine.devices);
}

Report simulate_per_batch(const Load& load, const Machine& machine, std::int32_t batch, std::int32_t overlap,
                          Seconds linger, const CostTable& costs, const Poll& poll) {
  check(load, machine);
  check_range("batch", batch, 1, limits::rows);
  check_range("overlap", overlap, 1, limits::in_flight);
  check_range("linger", linger, Seconds{never});
  check_range("devices x overlap x batch", std::int64_t{machine.devices} * overlap * batch, std::int64_t{1},
              limits::rows_in_flight);
  Source source(load);
  Exits exits(load);
  Account account(costs, poll);
  const double first = source.over() ? 0 : source.next();
  const Cover glance(costs.buckets(Stage::glance), batch, Objective::device_time);
  const Cover focus(costs.buckets(Stage::focus), batch, Objective::device_time);
  std::vector<double> device_free(static_cast<std::size_t>(machine.devices), 0.0);
  std::vector<Batch> batches(device_free.size() * static_cast<std::size_t>(overlap));
  std::vector<double> staying;
  for (;; account.pause()) {
    // Whoever may act first takes a new batch, or one step with what it has.
    const auto next = std::ranges::min_element(batches, {}, &Batch::now);
    Batch& current = *next;
    if (current.now == never) break;
    if (current.inside.empty()) {
      current.fill(source, batch, linger.count());
      continue;
    }
    const Stage stage = current.step == 1 ? Stage::glance : Stage::focus;
    const Cover& cover = current.step == 1 ? glance : focus;
    double& free_at = device_free[static_cast<std::size_t>(next - batches.begin()) % device_free.size()];
    double issued = current.now;
    for (auto rows = static_cast<std::int32_t>(current.inside.size()); rows > 0;) {
      const Bucket& bucket = cover.first(rows);
      account.launched(stage, std::min(rows, bucket.size), bucket.size, bucket.cost.count());
      issued += machine.issue.count();
      free_at = std::max(issued, free_at) + bucket.cost.count();
      rows -= bucket.size;
    }
    current.now = free_at + machine.sync.count();
    ++account.report.waits;
    staying.clear();
    for (const double arrived : current.inside) {
      if (exits.leaves(current.step)) {
        account.answered(arrived, current.now, true);
      } else {
        staying.push_back(arrived);
      }
    }
    current.inside.swap(staying);
    ++current.step;
  }
  return account.finish(first, machine.devices);
}

}  // namespace gfnet

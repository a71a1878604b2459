/// The choice of the next launch, one function per mode.
#include "state.hpp"

namespace gfnet {

Choice Scheduler::State::choose(Seconds now) const {
  if (empty(Stage::glance) && empty(Stage::focus)) return nothing();
  if (flying == options.in_flight) return {Verdict::wait};
  switch (options.mode) {
    case Mode::throughput: return throughput(now);
    case Mode::latency: return latency();
    case Mode::deadline: return by_deadline(now);
  }
  return nothing();
}

Choice Scheduler::State::nothing() const {
  if (flying > 0) return {Verdict::wait};
  return {closed ? Verdict::done : Verdict::starved};
}

Choice Scheduler::State::throughput(Seconds now) const {
  // After a failure: what it held goes first. It is always at the head, because it was put back there.
  for (const Stage stage : {Stage::focus, Stage::glance}) {
    if (!empty(stage) && limit(stage) != unlimited) return {Verdict::launch, stage, retry_bucket(stage)};
  }

  // Nobody starves: a queue whose head has been passed over too often goes next, the older head first.
  const auto queued_launch = [&](Stage stage) {
    return empty(stage) ? planned : line(stage).fifo.head().queued_launch;
  };
  const Stage older = queued_launch(Stage::focus) <= queued_launch(Stage::glance) ? Stage::focus : Stage::glance;
  if (planned - queued_launch(older) >= options.patience) {
    return queued(older) >= line(older).full.size ? full(older) : cut(older);
  }

  // Full batches: focus if those known to be ready fill one, else new images. At the very end of a stream, with
  // nothing else to come, what is ready is cut as a whole: two launches of 100 may beat 128 and the rest of 200.
  const bool last_rows = closed && flying == 0 && empty(Stage::glance);
  if (!last_rows && queued(Stage::focus) >= focus.full.size) return full(Stage::focus);
  if (closed && !empty(Stage::glance)) return cut(Stage::glance);
  if (queued(Stage::glance) >= glance.full.size) return full(Stage::glance);

  // Nothing is full. Outcomes in flight can add to the ready ones; new images can add to the waiting ones.
  if (flying > 0) return {Verdict::wait};
  const bool no_room = free.empty() && departures.empty();
  Seconds oldest = now;
  for (const Stage stage : {Stage::focus, Stage::glance}) {
    if (!empty(stage)) oldest = std::min(oldest, line(stage).fifo.head().queued_at);
  }
  if (closed || no_room || now >= oldest + options.linger) return cut(empty(Stage::focus) ? Stage::glance : Stage::focus);
  return {.verdict = Verdict::starved, .wake_at = oldest + options.linger};
}

Choice Scheduler::State::latency() const {
  const bool focus_first =
      empty(Stage::glance) || (!empty(Stage::focus) && head(Stage::focus).order < head(Stage::glance).order);
  const Stage stage = focus_first ? Stage::focus : Stage::glance;
  if (limit(stage) != unlimited) return {Verdict::launch, stage, retry_bucket(stage)};
  return cut(stage);
}

Choice Scheduler::State::by_deadline(Seconds now) const {
  const Seconds begin = start(now);
  const bool focus_first =
      empty(Stage::glance) || (!empty(Stage::focus) && head(Stage::focus).deadline < head(Stage::glance).deadline);

  // The best rate among the buckets that end in time. A focus launch must also leave the time to glance at all
  // that wait before the first of their deadlines: a first answer is worth more than a better one.
  const auto in_time = [&](Stage stage, Seconds end) -> Choice {
    if (limit(stage) != unlimited) {
      const Bucket& bucket = retry_bucket(stage);
      return begin + bucket.cost <= end ? Choice{Verdict::launch, stage, bucket} : nothing();
    }
    const Bucket* best = nullptr;
    const auto time_per_row = [&](const Bucket& bucket) {
      return bucket.cost / std::min(bucket.size, queued(stage));
    };
    for (const Bucket& bucket : costs.buckets(stage)) {
      if (begin + bucket.cost > end) continue;
      if (best == nullptr || time_per_row(bucket) < time_per_row(*best)) best = &bucket;
    }
    return best != nullptr ? Choice{Verdict::launch, stage, *best} : nothing();
  };
  if (focus_first) {
    Seconds end = head(Stage::focus).deadline;
    if (!empty(Stage::glance)) {
      end = std::min(end, head(Stage::glance).deadline - glance.cover.value(queued(Stage::glance)));
    }
    const Choice choice = in_time(Stage::focus, end);
    if (choice.verdict == Verdict::launch || empty(Stage::glance)) return choice;
  }
  return in_time(Stage::glance, head(Stage::glance).deadline);
}

}  // namespace gfnet

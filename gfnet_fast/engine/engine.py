"""The engine: a batch or a stream of images through the loop, answers in the order of the images."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from gfnet_fast._scheduler import Mode
from gfnet_fast.engine.answers import Answer, Answers, PassError, singles
from gfnet_fast.engine.loop import Images, Loop, plain
from gfnet_fast.engine.transfer import Arrival, to_device
from gfnet_fast.errors import InputError
from gfnet_fast.results import Prediction


class Engine(Loop):
    """Runs a GFNet so that images at different steps share batches; used by one thread at a time.

    Parameters
    ----------
    model : GFNet
        In evaluation mode, float32, on the device to run on. It is copied.
    dtype : float32 or bfloat16
        What encoders, GRUs and hidden layers compute in. Logits, exits and origins are float32 always.
    mode : "throughput", "latency" or "deadline"
        See docs/scheduler.md. In deadline mode an image has `allowed` seconds from its submission.
    buckets : increasing batch sizes that both stages are prepared for
    capacity : images in flight at most; three times the largest bucket without it
    invariance : "margin" or "batch"
        With "batch" every launch has the shape of the largest bucket, and an image's answer is the same to
        the bit whatever is in its batch.
    compile : whether to compile every bucket; half a minute for a ResNet-50 and three buckets on a CPU
    layout : torch.contiguous_format or torch.channels_last
        Of the encoders; the one that is faster here without it.
    costs : CostTable, optional
        Seconds of a launch by stage and bucket; measured here without it.
    in_flight : launches whose outcomes may be outstanding; 2 on a GPU and 1 on a CPU without it
    clock : seconds, never going back

    Raises
    ------
    DeviceError
        Where the device does not compute in `dtype`.
    """

    @property
    def seconds_an_image(self) -> float:
        """Measured seconds of two steps of an image in full batches: about what the mean image takes."""
        return sum(table[-1][1] for table in (self.costs.glance, self.costs.focus)) / self.buckets[-1]

    def predict(self, images: Images, thresholds: Tensor | None = None) -> Prediction:
        """Predictions in the order of `images`, as for :meth:`submit`; `thresholds` ``[T]`` are kept.

        Raises PassError, with the other images' predictions, where some could not be computed.
        """
        self._expect_idle()
        if thresholds is not None:
            self.thresholds = thresholds
        first, count, errors = self._next, len(images), dict[int, str]()
        out: Prediction | None = None
        try:
            for answers in self._feed(images):
                prediction = answers.prediction
                if out is None:
                    out = Prediction(*(t.new_empty(count, *t.shape[1:]) for t in prediction))
                rows = to_device(torch.from_numpy(answers.tickets - first), self.arena.device)
                for column, values in zip(out, prediction, strict=True):
                    column.index_copy_(0, rows, values)
                errors |= {ticket - first: error for ticket, error in answers.errors.items()}
        except BaseException:
            self.reset()
            raise
        if out is None:
            raise InputError("images: expected at least one, got none")
        if errors:
            raise PassError(dict(sorted(errors.items())), out)
        return out

    def _feed(self, images: Images) -> Iterator[Answers]:
        """All images through the engine, answers as they come."""
        for begin in range(0, len(images), self.capacity):
            self.submit(images[begin : begin + self.capacity])
            yield from self.collect()
        self.drain()
        yield from self.collect()

    def stream(self, images: Iterable[Tensor]) -> Generator[Answer, None, None]:
        """Answers in the order of single images, in memory that does not grow with their number.

        At most a batch is asked for at a time. In latency mode an image is answered before the next one is
        asked for, which is the mode for a source that is slower than the engine: in throughput mode an answer
        may come when some more batches have been asked for. In deadline mode no more are asked for than have
        a glance in half of the time allowed.
        When the consumer stops, or the iterable raises, nothing of the images stays behind.
        """
        self._expect_idle()
        self._streaming, at_once = True, self._at_once()
        first, window = self._next, self.capacity * self.config.steps
        source, ready, ended = iter(images), dict[int, Answer](), False
        coming = deque[tuple[Answers, Arrival]]()
        try:
            while not ended or first < self._next:
                room = min(self.scheduler.occupancy().free, window - (self._next - first))
                if self.mode is Mode.DEADLINE and self.scheduler.occupancy().waiting:
                    room = 0
                wanted = 0 if ended else min(room, at_once)
                batch = list(islice(source, wanted))
                ended = ended or len(batch) < wanted
                if batch:
                    self.submit(batch)
                if ended or self.mode is Mode.LATENCY:
                    self.drain()
                else:
                    self._make_room()
                coming.extend((answers, self._to_host(answers)) for answers in self.collect())
                # A wait would hold up the next launch; the end, and whoever asks for one at a time, waits.
                at_leisure = self.mode is Mode.THROUGHPUT and not ended
                while coming:
                    answers, arrival = coming[0]
                    if at_leisure and len(coming) <= self.in_flight and not arrival.ready():
                        break
                    coming.popleft()
                    here = answers._replace(prediction=Prediction(*arrival.taken()))
                    ready.update((answer.ticket, answer) for answer in singles(here))
                while first in ready:
                    yield ready.pop(first)
                    first += 1
        finally:
            self._streaming = False
            self.reset()

    def _to_host(self, answers: Answers) -> Arrival:
        with plain(self.arena.device):
            return self._transfer.up(*answers.prediction)

    def _at_once(self) -> int:
        """How many images a stream asks for at a time."""
        if self.mode is Mode.LATENCY:
            return 1
        if self.mode is Mode.THROUGHPUT:
            return self.buckets[-1]
        return max((rows for rows, seconds in self.costs.glance if seconds <= self.allowed / 2), default=1)

    def _expect_idle(self) -> None:
        if self._streaming or self._done or self.scheduler.occupancy().free < self.capacity:
            raise InputError(
                "engine: expected no open stream, no images in flight and no answers left; drain and collect"
            )

"""The engine: a batch or a stream of images through the loop, answers in the order of the images."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast._scheduler import Mode
from gfnet_fast.engine.answers import Answer, Batch, PassError, room_for
from gfnet_fast.engine.intake import Images
from gfnet_fast.engine.loop import REASONS, Array, Loop
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
        images = images if isinstance(images, Tensor) else list(images)
        entries = self._entries(images)
        if not len(entries):
            raise InputError("images: expected at least one, got none")
        if thresholds is not None:
            self.thresholds = thresholds
        first, output = self._next, room_for(len(entries), self.config, self.arena.device)
        try:
            with self._computing():
                self._take_in(self._words(entries, output), None)
                self._drain()
        except BaseException:
            self.reset()
            raise
        self._left.clear()
        if self._errors:
            errors: dict[int | str, str] = {
                ticket - first: error for ticket, error in sorted(self._errors.items())
            }
            self._errors.clear()
            raise PassError(errors, output)
        return output

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
        window = self.capacity * self.config.steps
        line = Line(self._next, window, pinned=self.arena.device.type == "cuda")
        source, ended = iter(images), False
        try:
            while not ended or line.first < self._next:
                places = self.scheduler.occupancy()
                room = min(places.free, window - (self._next - line.first))
                if self.mode is Mode.DEADLINE and places.waiting:
                    room = 0
                wanted = 0 if ended else min(room, at_once)
                batch = list(islice(source, wanted))
                ended = ended or len(batch) < wanted
                with self._computing():
                    if batch:
                        line.join(self._join(batch))
                    if ended or self.mode is Mode.LATENCY:
                        self._drain()
                    else:
                        self._make_room()
                if self.mode is Mode.DEADLINE:  # answers of those whose time is up come with no record
                    self._launches.finish()
                line.note(self._left)
                for answers in line.answers(self._errors):
                    yield from answers
        finally:
            self._streaming = False
            self.reset()

    def _join(self, images: list[Tensor]) -> Batch:
        """Take images in whose answers go to the host, which a GPU reaches where memory is page-locked."""
        entries, pinned = self._entries(images), self.arena.device.type == "cuda"
        output = room_for(len(images), self.config, torch.device("cpu"), pinned=pinned)
        batch = Batch(self._next, output)
        self._take_in(self._words(entries, output), images)
        return batch

    def _at_once(self) -> int:
        """How many images a stream asks for at a time."""
        if self.mode is Mode.LATENCY:
            return 1
        if self.mode is Mode.THROUGHPUT:
            return self.buckets[-1]
        return max((rows for rows, seconds in self.costs.glance if seconds <= self.allowed / 2), default=1)

    def _expect_idle(self) -> None:
        if self._streaming or self._left or self.scheduler.occupancy().free < self.capacity:
            raise InputError(
                "engine: expected no open stream, no images in flight and no answers left; drain and collect"
            )


class Line:
    """The images of a stream that have been asked for and not been given back, in their order."""

    def __init__(self, first: int, window: int, *, pinned: bool) -> None:
        """`first`: the ticket of the next answer; `window`: how many tickets beyond it may be known.

        `pinned`: whether answers come in page-locked memory, which is given back.
        """
        self.first, self._pinned = first, pinned
        self._batches: deque[Batch] = deque()
        self._gone, self._reasons = np.zeros(window, bool), np.zeros(window, np.int32)

    def join(self, batch: Batch) -> None:
        self._batches.append(batch)

    def note(self, left: list[tuple[Array, NDArray[np.int32]]]) -> None:
        """Who has left, tickets and reasons; they are taken out of the list."""
        for tickets, reasons in left:
            places = tickets % len(self._gone)
            self._gone[places], self._reasons[places] = True, reasons
        left.clear()

    def answers(self, errors: dict[int, str]) -> Iterator[list[Answer]]:
        """Those that have left and nobody before whom has not; errors by ticket are taken out."""
        while self._batches:
            batch = self._batches[0]
            places = np.arange(self.first, batch.end) % len(self._gone)
            gone = self._gone[places]
            count = len(gone) if gone.all() else int(gone.argmin())
            if not count:
                return
            here = places[:count]
            self._gone[here] = False
            reasons = [REASONS[reason] for reason in self._reasons[here].tolist()]
            begin, self.first = self.first, self.first + count
            if self.first == batch.end:
                self._batches.popleft()
                if self._pinned:
                    batch.copy()
            yield batch.answers(begin, self.first, reasons, errors)
            for ticket in range(begin, self.first) if errors else ():
                errors.pop(ticket, None)

"""The engine: a batch or a stream of images through the loop, answers in the order of the images."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice, repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast._scheduler import Mode
from gfnet_fast.config import GFNetConfig
from gfnet_fast.engine.answers import ANSWER, Answer, PassError, places_of, room_for
from gfnet_fast.engine.intake import Images
from gfnet_fast.engine.loop import REASONS, Loop
from gfnet_fast.engine.running import Array
from gfnet_fast.errors import InputError
from gfnet_fast.results import Prediction


class Engine(Loop):
    """Runs a GFNet so that images at different steps share batches; used by one thread at a time.

    Parameters
    ----------
    model : GFNet
        In evaluation mode, float32, on the device to run on. It is copied.
    dtype : float32, bfloat16, float16 or int8
        What encoders, GRUs and hidden layers compute in. Logits, exits and origins are float32 always. int8
        takes a model that has been quantised.
    runtime : name of what computes the networks; see :mod:`gfnet_fast.engine.runtimes`
    mode : "throughput", "latency" or "deadline"
        See docs/internals/scheduler.md. In deadline mode an image has `allowed` seconds from its submission.
    buckets : increasing batch sizes that both stages are prepared for
    capacity : images in flight at most; three times the largest bucket without it
    invariance : "margin" or "batch"
        With "batch" every launch has the shape of the largest bucket, and an image's answer is the same to
        the bit whatever is in its batch.
    layout : torch.contiguous_format or torch.channels_last
        Of the encoders; the one that is faster here without it.
    costs : CostTable, optional
        Seconds of a launch by stage and bucket; measured here without it.
    in_flight : launches whose outcomes may be outstanding; 2 on a GPU and 1 on a CPU without it
    clock : seconds, never going back

    Raises
    ------
    DeviceError
        Where the runtime is not there, or does not compute in `dtype` on the model's device.
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
        first = self._next
        try:
            with self._computing():
                output = room_for(len(entries), self.config, self.arena.device)
                self._take_in(self._words(entries, places_of(output)), None)
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
        at_once, least = self._at_once(), max(1, self._spare)
        window = self.capacity * self.config.steps
        line = Line(self._next, window, self.config, pinned=self.arena.device.type == "cuda")
        source, ended, self._streaming = iter(images), False, True
        try:
            while not ended or line.first < self._next:
                held, ahead = self.scheduler.occupancy(), window - (self._next - line.first)
                room = min(held.free, ahead)
                if room < least or (self.mode is Mode.DEADLINE and held.waiting):
                    room = 0
                wanted = 0 if ended else min(room, at_once)
                batch = list(islice(source, wanted))
                ended = ended or len(batch) < wanted
                with self._computing():
                    if batch:
                        places = line.places(self._next, len(batch))
                        self._take_in(self._words(self._entries(batch), places), batch)
                    if ended or self.mode is Mode.LATENCY:
                        self._drain()
                    else:
                        self._make_room()
                if self.mode is Mode.DEADLINE:  # answers of those whose time is up come with no record
                    self._launches.finish()
                if ended or ahead < least or sum(len(tickets) for tickets, _ in self._left) >= least:
                    line.note(self._left)
                    for answers in line.answers(self._errors):
                        yield from answers
        finally:
            self._streaming = False
            self.reset()

    def _at_once(self) -> int:
        """How many images a stream asks for at a time."""
        if self.mode is Mode.LATENCY:
            return 1
        if self.mode is Mode.THROUGHPUT:
            return self.buckets[-1]
        return max((rows for rows, seconds in self.costs.glance if seconds <= self.allowed / 2), default=1)

    def _expect_idle(self) -> None:
        self._expect_settled()
        if self._streaming or self._left or self.scheduler.occupancy().free < self.capacity:
            raise InputError(
                "engine: expected no open stream, no images in flight and no answers left; drain and collect"
            )


class Line:
    """The images of a stream that have been asked for and not been given back, in their order.

    Their answers go to rows of a ring on the host, one a ticket, and are copied out of it a batch at a time.
    """

    def __init__(self, first: int, window: int, config: GFNetConfig, *, pinned: bool) -> None:
        """`first`: the ticket of the next answer; `window`: how many tickets from there on may be known.

        `pinned`: page-locked memory, which a GPU reaches.
        """
        self.first, self._window = first, window
        self._output = room_for(window, config, torch.device("cpu"), pinned=pinned)
        self._places = places_of(self._output)
        self._gone, self._reasons = np.zeros(window, bool), np.zeros(window, np.int32)

    def places(self, first: int, count: int) -> Array:
        """Addresses of the answers of `count` tickets, int64 ``[count, 5]``."""
        return self._places[np.arange(first, first + count) % self._window]

    def note(self, left: list[tuple[Array, NDArray[np.int32]]]) -> None:
        """Who has left, tickets and reasons; they are taken out of the list."""
        for tickets, reasons in left:
            rows = tickets % self._window
            self._gone[rows], self._reasons[rows] = True, reasons
        left.clear()

    def answers(self, errors: dict[int, str]) -> Iterator[list[Answer]]:
        """Those that have left and nobody before whom has not; errors by ticket are taken out."""
        while True:
            begin = self.first % self._window
            gone = self._gone[begin:]
            count = int(gone.argmin()) or len(gone) * bool(gone[0])
            if not count:
                return
            rows, tickets = slice(begin, begin + count), range(self.first, self.first + count)
            self.first, gone[:count] = self.first + count, False
            numbers = (column[rows].tolist() for column in self._output[:3])
            reasons = REASONS[self._reasons[rows]].tolist()
            texts = [errors.pop(ticket, None) for ticket in tickets] if errors else repeat(None, count)
            logits, origins = (column[rows].clone() for column in self._output[3:])
            found = repeat(logits, count), repeat(origins, count), range(count)
            yield list(map(ANSWER, zip(tickets, *numbers, reasons, texts, *found, strict=True)))

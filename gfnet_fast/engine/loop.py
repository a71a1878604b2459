"""The loop: images in, answers out, in whatever order they leave."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from gfnet_fast._scheduler import Mode, Reason, Verdict
from gfnet_fast.engine.answers import Answers, Batch, Full, places_of, room_for
from gfnet_fast.engine.blocks import Admission
from gfnet_fast.engine.intake import Images, entries_of
from gfnet_fast.engine.running import Array, Running
from gfnet_fast.errors import InputError
from gfnet_fast.results import Prediction

REASONS = np.array(list(Reason), object)  # by value


class Loop(Running):
    """Images are submitted, steps are taken, answers are collected; see :class:`Engine` for the arguments."""

    def reset(self) -> None:
        super().reset()
        self._batches: list[Batch] = []

    def cancel(self, tickets: Iterable[int]) -> None:
        """Images that nobody waits for any more: they leave with the next launch that they are in.

        They are answered all the same, with Reason.CANCELLED and what they had found. Tickets of images that
        have left are passed over.
        """
        self._expect_no_stream()
        slots = np.flatnonzero(np.isin(self._told.ticket, list(tickets)))
        self._told.limit[slots] = 0
        with self._computing():
            self.arena.limits.index_fill_(0, self._to_device(torch.from_numpy(slots)), 0)

    def collect(self) -> list[Answers]:
        """What has left since the last call; computes nothing."""
        self._expect_no_stream()
        with self._computing():
            self._let_go()
            if not self._left:
                return []
            tickets, reasons = map(np.concatenate, zip(*self._left, strict=True))
            firsts = np.array([batch.first for batch in self._batches])
            owner = np.searchsorted(firsts, tickets, "right") - 1
            prediction = self._rows_of(tickets, owner)
        counts = np.bincount(owner, minlength=len(firsts)).tolist()
        for batch, count in zip(self._batches, counts, strict=True):
            batch.left -= count
            if not batch.left:
                self._launches.used(batch.output)
                if self._flights:
                    self._flights[-1].held.append(batch)
        self._batches = [batch for batch in self._batches if batch.left]
        self._left = []
        errors = {ticket: self._errors.pop(ticket) for ticket in tickets.tolist() if ticket in self._errors}
        return [Answers(tickets, prediction, REASONS[reasons].tolist(), errors)]

    def _rows_of(self, tickets: Array, owner: Array) -> Prediction:
        """The answers of these tickets, copied from where they were written to: the batch at `owner`."""
        parts, places = [], []
        for index in np.unique(owner):
            batch, (here,) = self._batches[index], (owner == index).nonzero()
            rows = self._to_device(torch.from_numpy(tickets[here] - batch.first))
            parts.append(Prediction(*(column.index_select(0, rows) for column in batch.output)))
            places.append(here)
        if len(parts) == 1:
            return parts[0]
        order = self._to_device(torch.from_numpy(np.concatenate(places).argsort()))
        return Prediction(*(torch.cat(column).index_select(0, order) for column in zip(*parts, strict=True)))

    def submit(self, images: Images, *, wait: bool = True) -> range:
        """Take images in; their tickets. They must stay unchanged until they have left.

        With `wait` it takes steps until all have found room; without, it raises Full and takes none.
        Answers wait in memory until they are collected.

        Parameters
        ----------
        images : uint8 ``[n, H, W, 3]`` or ``[n, 3, H, W]``, normalised floats, or a list of single images,
            whose sizes may differ. All in flight have one dtype.
        """
        self._expect_no_stream()
        images = images if isinstance(images, Tensor) else list(images)
        if not len(images):
            return range(self._next, self._next)
        entries = self._entries(images)
        with self._computing():
            self._let_go()
            if not wait and (free := self.scheduler.occupancy().free) < len(images):
                raise Full(
                    f"submit: expected at most {free} images, got {len(images)}; wait, or take steps first"
                )
            output = room_for(len(images), self.config, self.arena.device)
            whole, singles = (images, None) if isinstance(images, Tensor) else (None, images)
            batch = Batch(self._next, output, whole)
            self._batches.append(batch)
            try:
                self._take_in(self._words(entries, places_of(output)), singles)
            except BaseException:
                self._unsettled = True  # nobody has the tickets of those that are in
                raise
        return range(batch.first, batch.end)

    def _entries(self, images: Images) -> Array:
        """Rows of the image table, of images that may join those in flight."""
        entries, pixels = entries_of(images, self.arena.patch, self.arena.device)
        if not len(entries):
            return entries
        if pixels != self.arena.table.dtype:
            if self.scheduler.occupancy().free < self.capacity:
                types = sorted(map(str, (pixels, self.arena.table.dtype)))
                raise InputError(f"images: expected one dtype for all in flight, got {types}")
            self.arena.hold(pixels)
        return entries

    def _words(self, entries: Array, places: Array) -> Array:
        """What slots are told of images at `entries` whose answers go to `places`, int64 ``[n, W]``."""
        words = np.empty((len(entries), self._words_told.shape[1]), np.int64)
        told = Admission.of(words, self.config.steps)
        told.entry[:], told.room[:] = entries, entries[:, 1:3] - self.arena.patch
        told.places[:], told.ticket[:] = places, np.arange(self._next, self._next + len(entries))
        told.deadline[:], told.limit[:], told.thresholds[:] = math.inf, self._max_steps, self._thresholds
        return words

    def _take_in(self, words: Array, images: Sequence[Tensor] | None) -> None:
        """Admit all, taking steps where there is no room; single `images` are kept until they leave."""
        taken = 0
        while True:
            if self._freed:
                self._incoming, self._freed = words[taken:], False
                taken += self._admit(self._incoming, None if images is None else images[taken:])
                if taken == len(words):
                    break
            self._make_room()
        self._freed = True
        self._incoming = self._words_told[:0]

    def _admit(self, words: Array, images: Sequence[Tensor] | None) -> int:
        now, deadlines = self._clock(), None
        if self.mode is Mode.DEADLINE:
            deadlines = np.full(len(words), now + self.allowed)
            Admission.of(words, self.config.steps).deadline[:] = now + self.allowed
        slots = self.scheduler.admit(len(words), now, deadlines)
        count = len(slots)
        if count:
            self._words_told[slots] = words[:count]
            self._next += count
            if images is not None:
                self._sources[slots] = np.fromiter(images[:count], object, count)
                self._singles = True
        return count

    def _make_room(self) -> None:
        """Take a step; where only more images could fill a batch, let it be padded."""
        if self._step() is Verdict.STARVED:
            self.scheduler.close()
            try:
                self._step()
            finally:
                self.scheduler.open()

"""A run between two updates: its stages one after another, from wherever its checkpoint was, and its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from gfnet_fast.checkpoints import official_checkpoint
from gfnet_fast.checkpoints.official import official_form
from gfnet_fast.data.folder import (
    Batch,
    FolderImages,
    Order,
    Part,
    Parts,
    evaluation_reader,
    load_batches,
    shuffled_batches,
)
from gfnet_fast.errors import InputError, TrainingError
from gfnet_fast.files import write_json
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training.best import BATCH, Best, Look, looked_at
from gfnet_fast.training.distributed import SharedDraws, World, seed_of
from gfnet_fast.training.evaluate import Scores, find_exits, random_crops, step_scores, summary
from gfnet_fast.training.job import Job, Manner
from gfnet_fast.training.pace import Pace, passes, said
from gfnet_fast.training.progress import Progress
from gfnet_fast.training.stages import (
    ClassifierStage,
    EncoderStage,
    PolicyStage,
    Position,
    Stage,
    Sums,
    merged,
    run,
)
from gfnet_fast.training.start import begin_from_global, training_reader
from gfnet_fast.training.state import EVALUATION, FAILED, OFFICIAL, save_checkpoint, write_torch
from gfnet_fast.training.unroll import Chooser, Views

WORKERS, BATCHES_A_WORKER = 2, 4
"""Where nobody says how many processes read: at most so many, with at least so many batches each."""


class Interrupted(Exception):
    """Somebody asked the run to stop; it has written a checkpoint."""


class Run:
    """What has been done, and how it goes on."""

    def __init__(
        self,
        model: GFNet,
        job: Job,
        parts: Parts,
        manner: Manner,
        world: World,
        progress: Progress,
        stopped: list[int],
        state: dict[str, Any] | None,
    ) -> None:
        self.model, self.job, self.parts, self.manner = model, job, parts, manner
        self.world, self.progress, self.stopped = world, progress, stopped
        self.config = job.training
        self.done: list[int] = []
        self.rows: list[dict[str, Any]] = []
        self.bad: dict[str, str] = {}
        self.at = Position()
        self.stage: Stage | None = None
        self.ema: ModelEmaV3 | None = None
        self.best: Best | None = None
        self.batch: Batch | None = None
        part = looked_at(parts.heldout, len(parts.train), model.config.canvas, len(parts.classes))
        self.look = Look(part, self._read, world, self.config.seed)
        self.total = len(parts.train) // self.config.batch
        self.state, seconds = state, 0.0
        if state is not None:
            self.done, self.rows, self.bad = state["done"], state["rows"], state["bad"]
            model.load_state_dict(state["model"])
            seconds = state["seconds"]
            progress.write(self.rows)
        self.started = time.monotonic() - seconds
        for encoder in (model.global_encoder, model.local_encoder):
            if manner.channels_last:
                encoder.to(memory_format=torch.channels_last)
            if manner.compile:
                encoder.compile()

    def train(self, numbers: list[int]) -> None:
        """The stages of these numbers."""
        config, steps = self.config, self.model.config.steps
        self.numbers = sorted({*self.done, *numbers})
        size = config.batch
        work = {n: (config.epochs[n], self.total, size * passes(n, steps, config)) for n in numbers}
        kept = len(self.parts.heldout) + 2 * len(self.parts.validation)
        self.pace = Pace(work, kept * steps)
        if numbers:
            self.progress.say("time: measuring")
        for number in numbers:
            self._train(number)

    def _train(self, number: int) -> None:
        """One stage, from its beginning or from where the checkpoint was."""
        fresh = self.state is None and self.job.init is None
        if number == 1 and 0 not in self.done and self.config.local_from_global and fresh:
            begin_from_global(self.model)
        self.stage = stage = self._stage(number)
        if self.config.ema and number != 2:
            self.ema = ModelEmaV3(self.model, decay=self.config.ema)
        self.at, self.best = Position(), None
        if (state := self.state) is not None and state["stage"] == number:
            sums = Sums(state["totals"], state["count"])
            self.at = Position(state["epoch"], state["batch"], sums if self.world.rank == 0 else Sums())
            stage.optimizer.load_state_dict(state["optimizer"])
            if self.ema is not None:
                self.ema.module.load_state_dict(state["ema"])
            if state["best"] is not None:
                self.best = Best(**state["best"])
        if state is not None:
            self.progress.say(f"going on at {self._place(stage, self.at.epoch)}")
        self.state = None
        if number != 2 and self.best is None:
            self.best = Best.of(self.model, self.look(self.model, number), -1)
        self.pace.begin(number)
        try:
            run(stage, self._batches, self._report, self.at, self._draws, self._after, self._enough)
        except TrainingError as error:
            raise self._keep_batch(error) from error
        if self.best is not None:
            self.model.load_state_dict(self.best.weights)
        self.world.broadcast(self.model)  # processes differ in batch-norm statistics
        if number == 0 and self.config.local_from_global:
            begin_from_global(self.model)
        self.done.append(number)
        self.stage, self.ema, self.best, self.at = None, None, None, Position()
        self.save()

    def _place(self, stage: Stage, epoch: int) -> str:
        order = f"{self.numbers.index(stage.number) + 1} of {len(self.numbers)}"
        return f"stage {stage.number} ({order}), epoch {epoch + 1} of {stage.epochs}"

    def _enough(self, at: Position) -> bool:
        """Whether a stage has gone on for long enough without a better state."""
        patience = self.config.patience
        return patience > 0 and self.best is not None and at.epoch - 1 - self.best.epoch >= patience

    def _stage(self, number: int) -> Stage:
        if number == 0:
            encoder, epochs, rate = self.model.global_encoder, self.config.epochs[0], self.config.thumbnail_lr
            view = lambda images: Views(self.model, images).thumbnail()  # noqa: E731
            return EncoderStage(encoder, epochs, rate, self.config, view=view, world=self.world)
        if number == 2:
            return PolicyStage(self.model, self.config, self.world)
        return ClassifierStage(self.model, number, self.config, world=self.world)

    def _seed(self, *place: int) -> int:
        assert self.stage is not None
        return seed_of(self.config.seed, self.stage.number, *place)

    def _order(self, epoch: int) -> Order:
        """This process's share of the batches that an epoch still has."""
        size = self.config.batch
        rows = shuffled_batches(len(self.parts.train), size, self._seed(epoch))
        rows = rows[self.at.batch :, self.world.share(size)]
        return Order(rows.unbind(), lambda row: self._seed(epoch, 0, row))

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        reader = training_reader(self.model.config, self.config)
        images = FolderImages(self.parts.train, reader, replace=True)
        for batch in self._load(images, self._order(epoch)):
            # What a network draws itself (dropout): unlike the actions, each process its own.
            seed = self._seed(epoch, 1, self.at.batch, self.world.rank)
            torch.default_generator.manual_seed(seed)
            if self.world.device.type == "cuda":
                torch.cuda.manual_seed(seed)
            self.batch = batch
            yield batch.images, batch.labels

    def _load(self, images: FolderImages, order: Order) -> Iterator[Batch]:
        device, workers = self.world.device, self.manner.workers
        if workers is None:
            workers = min(WORKERS, len(order) // BATCHES_A_WORKER)
        for batch in load_batches(images, order, workers, pin=device.type == "cuda"):
            self._name(batch.bad)
            self._check_bad()
            yield batch.to(device)

    def _name(self, bad: Mapping[str, str]) -> None:
        """Say which images could not be read, each once; this process's, or all that others met."""
        for path, why in bad.items():
            if path not in self.bad:
                self.bad[path] = why
                self.progress.say(f"skipped: {why}")

    def _check_bad(self) -> None:
        if len(self.bad) > self.manner.bad_images:
            names = ", ".join(list(self.bad)[:4])
            raise InputError(
                f"{self.job.data}: expected at most {self.manner.bad_images} unreadable images, "
                f"got {len(self.bad)}: {names}"
            )

    def _draws(self, at: Position, rows: slice) -> SharedDraws:
        first = self.world.share(self.config.batch).start
        rows = slice(first + rows.start, first + rows.stop)
        return SharedDraws(self._seed(at.epoch, 2, at.batch), self.config.batch, rows)

    def _after(self) -> None:
        if self.ema is not None:
            self.ema.update(self.model)
        stage, at = self.stage, self.at
        assert stage is not None
        what = f"stage {stage.number}, epoch {at.epoch + 1} of {stage.epochs}"
        self.progress.batch(what, at.batch, self.total)
        if self.pace.batch():
            left, gone = self.pace.left(at.epoch, at.batch) or 0, time.monotonic() - self.started
            self.progress.say(f"time: about {said(left)} left, {said(gone + left)} in all")
        stopped = self.world.any(bool(self.stopped))
        if stopped or at.batch % self.manner.checkpoint_every == 0:
            self.save()
        if stopped:
            raise Interrupted(f"interrupted in {what}, after batch {at.batch}")

    def _report(self, row: dict[str, Any]) -> None:
        stage = self.stage
        assert stage is not None
        if self.best is not None:
            model = self.model if self.ema is None else self.ema.module
            seen = self.look(model, stage.number)
            if seen.loss < self.best.loss:
                self.best = Best.of(model, seen, row["epoch"])
            if math.isfinite(seen.loss):
                row = {**row, "heldout_loss": seen.loss, "heldout_accuracy": seen.accuracy}
        self.rows.append({"seconds": round(time.monotonic() - self.started, 1), **row})
        left = self.pace.left(self.at.epoch, self.at.batch)
        rest = "" if left is None else f", about {said(left)} left"
        self.progress.epoch(self.rows, self._place(stage, row["epoch"]), rest)
        self.save()

    def save(self) -> None:
        """Write the checkpoint: all that the rest of the run depends on."""
        everyones = self.world.objects((self.bad, self.at.sums.totals, self.at.sums.count))
        for bad, *_ in everyones:
            self._name(bad)
        if self.world.rank:
            return
        stage, at, ema = self.stage, self.at, self.ema
        totals = merged(totals for _, totals, _ in everyones)
        content = {
            "done": self.done,
            "stage": None if stage is None else stage.number,
            "epoch": at.epoch,
            "batch": at.batch,
            "totals": totals,
            "count": sum(count for *_, count in everyones),
            "model": self.model.state_dict(),
            "optimizer": None if stage is None else stage.optimizer.state_dict(),
            "ema": None if ema is None else ema.module.state_dict(),
            "best": None if self.best is None else self.best.state(),
            "rows": self.rows,
            "bad": self.bad,
            "seconds": time.monotonic() - self.started,
        }
        save_checkpoint(self.job.output, content)

    def _keep_batch(self, error: TrainingError) -> TrainingError:
        """The error, with where the batch that it came from is kept."""
        assert self.stage is not None
        assert self.batch is not None
        place = {"stage": self.stage.number, "epoch": self.at.epoch, "batch": self.at.batch}
        name = FAILED + "{stage}-epoch{epoch}-batch{batch}".format(**place)
        rank = f"-rank{self.world.rank}" if self.world.size > 1 else ""
        path = self.job.output / f"{name}{rank}.pt"
        content = {**place, "images": self.batch.images, "labels": self.batch.labels}
        write_torch(path, content)
        return TrainingError(f"{error}; the batch is in {path}, and the last checkpoint stays")

    def finish(self) -> dict[str, Any]:
        """Thresholds, figures, and the files that a trained model is."""
        model, parts = self.model.eval(), self.parts
        find_exits(model, self._scores(parts.heldout), parts.heldout.digest)
        for note in model.calibration.notes:
            self.progress.say(f"thresholds: {note}")
        by_policy = {
            "learned": self._scores(parts.validation),
            "random": self._scores(parts.validation, random_crops),
        }
        found = {
            "seconds": round(time.monotonic() - self.started),
            "count": by_policy["learned"].right.shape[1],
            "heldout": len(parts.heldout),
            "stages": self.done,
            "bad_images": sorted(self.bad),
            **summary(model, by_policy),
        }
        if self.world.rank == 0:
            output = self.job.output
            model.save_pretrained(output)
            if self.manner.export == "official":
                official = official_checkpoint(model, official_form(model.config))
                write_torch(output / OFFICIAL, official)
            write_json(output / EVALUATION, found)
        return found

    def _read(self, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of a part, as the predictor sees it."""
        order = Order(torch.arange(self.world.rank, len(part), self.world.size).split(BATCH))
        for batch in self._load(FolderImages(part, evaluation_reader(self.model.config)), order):
            if self.stopped and self.stage is None:
                raise Interrupted("interrupted while the trained model was measured")
            if len(batch.labels):
                yield batch.images, batch.labels

    def _scores(self, part: Part, chooser: Callable[[int], Chooser] | None = None) -> Scores:
        """Of all processes' images of a part, each of which reads its share."""
        everyones = self.world.objects((step_scores(self.model, self._read(part), chooser), self.bad))
        for _, bad in everyones:
            self._name(bad)
        self._check_bad()
        scores = zip(*(scores for scores, _ in everyones), strict=True)
        found = Scores(*(torch.cat(values, 1) for values in scores))
        if not found.right.shape[1]:
            raise InputError(f"{part.root}: expected a readable image, got none of {len(part)}")
        return found

"""Training on a folder of images: all stages in one run that can be killed at any point and gone on with.

Everything random about a run is a function of its seed and of a place in it (stage, epoch, batch, image), so
that a checkpoint needs no generator's state, and several processes see what one would.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from gfnet_fast.checkpoints.official import check_official
from gfnet_fast.data.folder import read_parts
from gfnet_fast.data.split import write_split
from gfnet_fast.errors import InputError
from gfnet_fast.files import write_json
from gfnet_fast.training.config import model_config
from gfnet_fast.training.defaults import Request, decide
from gfnet_fast.training.distributed import World
from gfnet_fast.training.job import Job, Manner, plan_stages
from gfnet_fast.training.progress import Progress, check_tensorboard
from gfnet_fast.training.run import Run
from gfnet_fast.training.start import (
    begin_with,
    check_classes,
    check_job,
    check_parts,
    new_model,
    training_reader,
)
from gfnet_fast.training.state import (
    PRETRAINED,
    SETTINGS,
    check_settings,
    drafts,
    load_checkpoint,
    load_settings,
)
from gfnet_fast.training.summary import said_of_run


def train_folder(
    asked: Job | Request, stages: Sequence[int] | None = None, manner: Manner | None = None
) -> dict[str, Any]:
    """Train, find thresholds on held-out images, measure on the validation images.

    `stages` are by default those that have epochs. A run that was killed goes on from its last checkpoint.
    The output folder gets the native model, training.json, pretrained.json, split.csv, metrics.jsonl,
    checkpoint.pt and evaluation.json, whose content is returned; a dry run returns nothing.

    Raises
    ------
    InputError
        Data, sizes or an output folder that do not fit; before anything is written.
    CheckpointError
        Weights to begin with that do not fit.
    TrainingError
        A loss that is not a number: the batch is kept as ``failed-*.pt``, the last checkpoint stays.
    Interrupted
        SIGINT or SIGTERM came; a checkpoint was written.
    """
    manner = manner or Manner()
    with World.join(manner.device) as world:
        if manner.tensorboard:
            check_tensorboard()
        output = asked.output
        parts, pictures = read_parts(asked.data, *asked.split), None
        check_classes(asked.data, parts.classes)
        warnings: list[str] = []
        if isinstance(asked, Request):
            job, pictures, warnings = decide(asked, parts, world, load_settings(output))
        else:
            job = asked
        config = job.training
        check_job(job, world)
        if len(parts.train) < config.batch:
            raise InputError(
                f"batch: expected at most the {len(parts.train)} training images, got {config.batch}"
            )
        sizes = (job.patch_size, job.steps, job.image_size)
        network = model_config(job.backbone, *sizes, len(parts.classes), **job.model)
        if manner.export == "official":
            check_official(network)
        training_reader(network, config)  # fails where timm does not know the augmentation
        model = new_model(network, job)
        check_parts(model, config, world)
        settings = job.settings(parts, model.config)
        check_settings(output, settings)
        state = load_checkpoint(output)
        numbers = plan_stages(config, stages, state, job.init is not None)
        begun = begin_with(model, job, parts.classes, numbers) if state is None else None
        model.labels = parts.classes
        first = world.rank == 0
        world.barrier()
        if first and not manner.dry_run:
            output.mkdir(parents=True, exist_ok=True)
            for draft in drafts(output):
                draft.unlink()
            write_json(output / SETTINGS, settings)
            write_split(output, parts, job.data)
            if begun is not None:
                write_json(output / PRETRAINED, asdict(begun))
            elif not job.pretrained:  # of an earlier run that had no checkpoint yet
                (output / PRETRAINED).unlink(missing_ok=True)
        folder = output if first and not manner.dry_run else None
        quiet = manner.quiet or not first
        with Progress(folder, quiet, manner.tensorboard) as progress, _stop_signals() as stopped:
            for line in [*warnings, *said_of_run(parts, job, network, pictures, numbers, begun, state)]:
                progress.say(line)
            if manner.dry_run:
                return {}
            trained = Run(model.to(world.device), job, parts, manner, world, progress, stopped, state)
            trained.train(numbers)
            return trained.finish()


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM land in a list, to look at after an update; a second one ends the process."""
    asked: list[int] = []
    before: dict[int, Any] = {}

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

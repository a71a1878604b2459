"""What a model does on labelled images: the confidence of every step, and the time its exits take."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast.data.labelled import Labelled
from gfnet_fast.errors import BudgetError
from gfnet_fast.exits import Budget, Calibration, CostTable, device_name, fit_costs
from gfnet_fast.exits.official import check_labels
from gfnet_fast.exits.rule import Floats, check_confidences
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.predictor import Predictor

CHUNK = 64
BATCHES = 64
"""How many of its largest batches a timed run is long: its padded end is then about two percent of it."""

Array = NDArray[np.float64]
Progress = Callable[[int], object]
"""Is told how many more images are done."""


class Steps(NamedTuple):
    """What every step says of N labelled images.

    confidences : float32 ``[T, N]``, largest softmax probability
    predictions : int64 ``[T, N]``, its class
    labels : int64 ``[N]``
    origins : int32 ``[T-1, N, 2]``, (row, column) of each crop's top-left pixel
    data_hash : str, SHA-256 of the preprocessed images and their labels, in whatever order
    """

    confidences: Floats
    predictions: NDArray[np.int64]
    labels: NDArray[np.int64]
    origins: NDArray[np.int32]
    data_hash: str

    @property
    def correct(self) -> NDArray[np.bool_]:
        """bool ``[T, N]``"""
        return self.predictions == self.labels


def chunks(rows: Sequence[int], size: int = CHUNK) -> Iterator[Sequence[int]]:
    return (rows[at : at + size] for at in range(0, len(rows), size))


@torch.no_grad()
def trace_steps(
    model: GFNet, data: Labelled, rows: Sequence[int], progress: Progress = lambda done: None
) -> Steps:
    """All T steps, without exits, for the images in `rows`, in float32 and in memory that does not grow.

    Raises
    ------
    BudgetError
        On labels that are not the model's, and on probabilities that are not numbers.
    InputError
        On an image that cannot be used.
    """
    digests: list[bytes] = []
    confidences, predictions, labels, origins = [], [], [], []
    for chunk in chunks(rows):
        images, truth = data.images(chunk), data.labels[list(chunk)]
        for image, label in zip(images.contiguous().numpy(), truth.numpy(), strict=True):
            digests.append(hashlib.sha256(image.tobytes() + label.tobytes()).digest())
        trace = model.trace(model.normalise(images.to(model.device)))
        probabilities = trace.logits.softmax(-1).cpu()
        confidences.append(check_confidences(probabilities.amax(-1)))
        predictions.append(probabilities.numpy().argmax(-1))
        labels.append(check_labels(truth, *probabilities.shape[1:]))
        origins.append(trace.origins.int().cpu().numpy())
        progress(len(chunk))
    if not confidences:
        raise BudgetError("images: expected at least one, got none")
    found = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
    return Steps(
        np.concatenate(confidences, 1),
        np.concatenate(predictions, 1),
        np.concatenate(labels),
        np.concatenate(origins, 1),
        found,
    )


class MeasuredCosts(NamedTuple):
    """Costs of the exits, measured through the whole engine, and how well they foretell its time.

    table : CostTable
    residual : largest relative error of the costs on the runs that they were fitted on
    requested, realised : float64 ``[C]``, mean milliseconds an image of other runs, between those: what a
        budget in time would have asked for, and what it took
    """

    table: CostTable
    residual: float
    requested: Array
    realised: Array


def measure_costs(
    predictor: Predictor,
    images: Tensor,
    calibration: Calibration,
    *,
    runs: int | None = None,
    rounds: int = 5,
    progress: Progress = lambda done: None,
) -> MeasuredCosts:
    """Milliseconds of exiting at step 1..T, from runs at budgets along the path, round after round.

    Each run puts :data:`BATCHES` of the predictor's batches through its whole engine, with padding and drain;
    the next round takes the next images. The costs are fitted on every other budget; those between are the
    check. Many short rounds say more than a few long ones: what a machine's speed does while one of them
    lasts is not divided out (:func:`in_step`).

    Parameters
    ----------
    predictor : Predictor
        Its budget is moved about, and set back at the end.
    images : uint8 ``[n, H, W, 3]``
        Drawn like those that the predictor will see, in random order, on its device. Fewer than a run's are
        one short run, whose last batches are padded, which a long stream never sees; what is left over when
        they are dealt out in runs is not used.
    calibration : Calibration
        Of its model, with known shares.
    runs : int, at least T
        Budgets that are fitted; T + 2 without it. With the check, twice as many less one are run.
    rounds : int, at least 3
        The middle half of them counts; in each round every budget has its turn.
    """
    if calibration.shares is None:
        raise BudgetError("calibration: expected one with known shares; make it with `gfnet-fast calibrate`")
    fitted = runs or predictor.config.steps + 2
    places = np.linspace(0, len(calibration.thresholds) - 1, 2 * fitted - 1)
    rows = [Budget(thresholds=tuple(calibration.at(place).tolist())) for place in places]
    before = predictor.budget
    size = run_length(predictor, len(images))
    parts = [images[at : at + size] for at in range(0, len(images) - size + 1, size)]
    shares = np.zeros((rounds + 1, len(rows), predictor.config.steps))
    turns = [iter(range(rounds + 1)) for _ in rows]

    def run(index: int) -> None:
        turn = next(turns[index])
        predictor.budget = rows[index]
        exits = predictor.predict_batch(parts[turn % len(parts)]).exit_step.cpu().numpy()
        shares[turn, index] = np.bincount(exits, minlength=predictor.config.steps + 1)[1:] / size
        progress(size)

    try:
        times = time_in_turn([partial(run, i) for i in range(len(rows))], rounds, predictor.device)
    finally:
        predictor.budget = before
    milliseconds = 1e3 * in_step(times) / size
    realised = shares[1:].mean(axis=0)
    costs, residual = fit_costs(realised[::2], milliseconds[::2])
    settings = {
        **predictor.settings,
        "images": size * len(parts),
        "rounds": rounds,
        "residual": residual,
        "torch": torch.__version__,
    }
    table = CostTable(device_name(predictor.device) or "", tuple(costs.tolist()), settings)
    stated = calibration.shares @ costs
    requested = np.interp(places, np.arange(len(stated)), stated)
    return MeasuredCosts(table, residual, requested[1::2], milliseconds[1::2])


def run_length(predictor: Predictor, count: int) -> int:
    """Images of one of :func:`measure_costs`' runs, of `count` that there are."""
    return min(count, BATCHES * predictor.batch)


def time_in_turn(contenders: Sequence[Callable[[], Any]], rounds: int, device: torch.device) -> Array:
    """Seconds of each contender in each round: float64 ``[rounds, contenders]``; one round more warms up.

    Each round has an order of its own, so that what comes before a contender is not always the same.
    On one thread of a CPU these are the process's own seconds, from which neighbours take nothing but caches.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    order = np.random.default_rng(0)
    times = np.zeros((rounds + 1, len(contenders)))
    for turn in times:
        for i in order.permutation(len(contenders)):
            begin = clock()
            contenders[i]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            turn[i] = clock() - begin
    return times[1:]


def in_step(times: Array) -> Array:
    """Each contender's mean over the rounds, without its slowest and fastest quarter and without what its
    round was faster or slower by.

    float64 ``[rounds, contenders]`` -> ``[contenders]``. A machine that is slower for a while is so for all
    contenders of a round, and drops out.
    """
    speed = np.median(times / np.median(times, axis=0), axis=1, keepdims=True)
    steady, cut = np.sort(times / speed, axis=0), len(times) // 4
    return steady[cut : len(times) - cut].mean(axis=0)


def stored_anytime(path: Path, steps: int) -> Array | None:
    """Accuracy of each step, percent ``[T]``, as an official file states it; None where it does not."""
    from gfnet_fast.checkpoints.official import read_content

    stated = read_content(path).get("anytime_classification")
    try:
        values = np.asarray([float(value) for value in stated or ()])
    except (TypeError, ValueError):
        return None
    return values if values.shape == (steps,) and (values > 0).all() else None


def spread(count: int, of: int) -> list[int]:
    """`count` places among 0..of - 1, evenly spaced with both ends; all of them where there are fewer."""
    return np.unique(np.linspace(0, of - 1, min(count, of)).round().astype(int)).tolist()


def shuffled(count: int, most: int | None, seed: int) -> list[int]:
    """Rows in random order, at most so many."""
    return np.random.default_rng(seed).permutation(count)[:most].tolist()

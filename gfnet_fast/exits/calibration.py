"""What is known of a model's exits on held-out data: the path of thresholds, its costs and its accuracy."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfnet_fast.errors import BudgetError, shown
from gfnet_fast.exits.budget import Budget, resolve
from gfnet_fast.exits.identity import CostTable, ModelIdentity, device_name
from gfnet_fast.exits.official import check_correct, wanted_counts
from gfnet_fast.exits.path import (
    between,
    capped_shares,
    curve,
    ends,
    in_order,
    is_nested,
    position_of,
    refine,
    thinned,
)
from gfnet_fast.exits.rule import (
    ALWAYS,
    NEVER,
    BudgetWarning,
    Floats,
    as_array,
    as_numbers,
    cap_steps,
    check_confidences,
    check_path,
)

POINTS = 257
"""Rows of a path that is made from held-out data."""

DEFAULT_LOSS = 0.5
"""Percent points of accuracy that a model gives up where no budget is named."""

FEW_IMAGES = 2_000
"""Of fewer held-out images half a percent point of accuracy is mostly chance."""

MEASURE = "use `gfnet-fast calibrate --time`"
CALIBRATE = "calibrate anew with `gfnet-fast calibrate`"

Array = NDArray[np.float64]


def cheapest_good_row(costs: Any, accuracy: Any) -> int:
    """The cheapest row that loses at most half a percent point against the most accurate one.

    `costs` and `accuracy` (percent, NaN where unknown) are ``[R]``.
    """
    levels = np.asarray(accuracy, np.float64)
    good = levels >= np.nanmax(levels) - DEFAULT_LOSS
    return int(np.where(good, np.asarray(costs, np.float64), np.inf).argmin())


def harm(correct: Any) -> NDArray[np.bool_]:
    """Loss of exiting at each step: right with all steps, wrong at this one. Bool ``[T, N]`` -> ``[T, N]``.

    Its mean is at least the accuracy that early exits cost, since images that only the early step gets
    right do not count in their favour.
    """
    right = as_array(correct)
    if right.ndim != 2 or 0 in right.shape:
        raise BudgetError(f"correct: expected shape [T, N], got {list(right.shape)}")
    right = check_correct(right, right.shape)
    return right[-1] & ~right


@dataclass(frozen=True, eq=False)
class Calibration:
    """The path of thresholds of one model, from the cheapest to the dearest, and what is known of it.

    Attributes
    ----------
    model : ModelIdentity
    thresholds : float32 ``[R, T]``
        The first row lets everybody exit at the glance, the last nobody before step T.
    mean_macs : float64 ``[R]``, or None where it is not known
    shares : float64 ``[R, T]``, or None
        Share of the held-out images that exit at each step; mean costs of any kind follow from it.
    accuracy : float64 ``[R]``, or None
        Percent of held-out images, NaN where it is not known.
    harm : float64 ``[R]``, or None
        Percent of held-out images that all steps get right and their exit wrong.
    count : int
        Held-out images, 0 where it is not known.
    data_hash, source : str
        Which data; which search ("official", "joint", "table").
    cost : CostTable, or None
    sample : float32 ``[T, M]``, or None
        Confidences of up to 4,096 of the images.
    notes : tuple of str
        What the search found remarkable: ties, empty shares, too few samples.
    """

    model: ModelIdentity
    thresholds: Floats
    mean_macs: Array | None = None
    shares: Array | None = None
    accuracy: Array | None = None
    harm: Array | None = None
    count: int = 0
    data_hash: str = ""
    source: str = "table"
    cost: CostTable | None = None
    sample: Floats | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        steps = self.model.steps
        rows = check_path(self.thresholds, steps)
        object.__setattr__(self, "thresholds", rows)
        each = (len(rows),)
        for name, shape in (("mean_macs", each), ("shares", rows.shape), ("accuracy", each), ("harm", each)):
            if (value := getattr(self, name)) is not None:
                array = as_numbers(name, value)
                if array.shape != shape or (name != "accuracy" and not np.isfinite(array).all()):
                    expected = f"{list(shape)} finite numbers, as the thresholds"
                    raise BudgetError(f"{name}: expected {expected}, got shape {list(array.shape)}")
                object.__setattr__(self, name, array)
        if self.shares is not None and not (
            np.allclose(self.shares.sum(axis=1), 1, atol=1e-6) and (self.shares >= 0).all()
        ):
            raise BudgetError("shares: expected rows of numbers from 0 on that sum to 1")
        if self.cost is not None and len(self.cost.milliseconds) != steps:
            raise BudgetError(f"cost table: expected {steps} steps, got {len(self.cost.milliseconds)}")
        if self.sample is not None:
            object.__setattr__(self, "sample", check_confidences(self.sample, steps))

    @classmethod
    def from_confidences(
        cls,
        model: ModelIdentity,
        thresholds: Any,
        confidences: Any,
        correct: Any = None,
        **more: Any,
    ) -> Calibration:
        """The calibration of a table of thresholds on held-out data.

        The two ends are added, the rows sorted by mean cost, and the way between them divided into 257
        rows evenly spaced in mean cost (fewer where confidences tie).

        Parameters
        ----------
        thresholds : float ``[R, T]``
        confidences : float ``[T, N]``
        correct : bool ``[T, N]``, optional
            Whether each step's prediction is right; without it the accuracy stays unknown.
        more
            `data_hash`, `source`, `cost`, `notes`.
        """
        levels = check_confidences(confidences, model.steps)
        right = None if correct is None else check_correct(correct, levels.shape)
        price = np.array(model.macs)
        rows = np.concatenate([ends(model.steps), check_path(thresholds, model.steps)])
        rows = rows[in_order(curve(levels, rows)[0] @ price, rows)]
        rows = refine(rows, thinned(levels), price, POINTS)
        shares, hits = curve(levels, rows, right)
        if right is not None:
            lost = curve(levels, rows, harm(right))[1]
            assert hits is not None
            assert lost is not None
            more = {"accuracy": 100 * hits, "harm": 100 * lost, **more}
        known = {"sample": thinned(levels), "count": levels.shape[1], **more}
        return cls(model, rows, shares @ price, shares, **known)

    @classmethod
    def from_table(
        cls, model: ModelIdentity, thresholds: Any, mean_macs: Any = None, accuracy: Any = None, **more: Any
    ) -> Calibration:
        """The path of an official checkpoint: thresholds ``[R, T]`` and, where stored, its curve.

        Without `mean_macs` ``[R]`` only the two ends' costs are known, so budgets in multiply-adds are
        refused until the model is calibrated. Rows come back sorted by cost, with the two ends added.
        A stored curve may leave the range of `model.macs` by 2 %, which is how far ways of counting differ.
        """
        rows = check_path(thresholds, model.steps)
        if mean_macs is None:
            return cls(model, rows, **more)
        inner = as_numbers("mean_macs", mean_macs)
        known = np.full(len(rows), np.nan) if accuracy is None else as_numbers("accuracy", accuracy)
        if inner.shape != (len(rows),) or known.shape != inner.shape or not np.isfinite(inner).all():
            raise BudgetError(
                f"mean_macs, accuracy: expected {len(rows)} numbers each, one a row of thresholds"
            )
        if inner.min() < model.macs[0] * 0.98 or inner.max() > model.macs[-1] * 1.02:
            span = f"{model.macs[0]:.4g} to {model.macs[-1]:.4g}"
            raise BudgetError(f"mean_macs: expected {span}, got {inner.min():.4g} to {inner.max():.4g}")
        rows = np.concatenate([ends(model.steps), rows])
        costs = np.concatenate([[model.macs[0], model.macs[-1]], inner.clip(model.macs[0], model.macs[-1])])
        known = np.concatenate([[np.nan, np.nan], known])
        order = in_order(costs, rows)
        return cls(model, rows[order], costs[order], accuracy=known[order], **more)

    @property
    def nested(self) -> bool:
        """Whether no threshold ever falls along the path, so that every mean cost rises along it."""
        return is_nested(self.thresholds)

    @property
    def default_row(self) -> int:
        """The row of a model without a named budget: :func:`cheapest_good_row`.

        On fewer than 2,000 images, where by chance a cheap row often looks best, the cheapest whose harm is
        at most half a percent. The dearest where no accuracy is known.
        """
        if self.harm is not None and self.count < FEW_IMAGES:
            return int((self.harm <= DEFAULT_LOSS).argmax())
        if self.accuracy is None or np.isnan(self.accuracy).all():
            return len(self.thresholds) - 1
        return cheapest_good_row(np.arange(len(self.accuracy)), self.accuracy)

    def with_cost(self, cost: CostTable) -> Calibration:
        """This calibration with the measured costs of a device."""
        return replace(self, cost=cost)

    def check_model(self, model: ModelIdentity) -> None:
        """Raise BudgetError unless this is the calibration of `model`.

        Weights are compared where both digests are known.
        """
        for name in ("name", "patch_size", "steps", "macs", "precision"):
            mine, other = getattr(self.model, name), getattr(model, name)
            if mine != other:
                got = f"{shown(other)}, got one for {shown(mine)}"
                raise BudgetError(f"calibration: expected one for {name} {got}; {CALIBRATE}")
        mine, other = self.model.weights, model.weights
        if mine is not None and other is not None and mine != other:
            got = f"{other[:8]}.., got one for {mine[:8]}.."
            raise BudgetError(f"calibration: expected one for the weights {got}; {CALIBRATE}")

    def costs(
        self, target: str = "macs", *, device: str | None = None, max_steps: int | None = None
    ) -> Array:
        """Mean cost of an image at each row: float64 ``[R]``, multiply-adds or milliseconds.

        Parameters
        ----------
        target : "macs" or "latency_ms"
        device : str
            The device that runs; has to be the cost table's for ``latency_ms``.
        max_steps : int, optional
            With nobody taking more steps than these.
        """
        if target not in ("macs", "latency_ms"):
            raise BudgetError(f"costs: expected 'macs' or 'latency_ms', got {target!r}")
        cap_steps(self.thresholds[0], max_steps)
        if target == "latency_ms":
            if self.cost is None:
                raise BudgetError(f"latency_ms: expected measured costs, got none; {MEASURE}")
            if (here := device_name(device)) != self.cost.device:
                wanted = f"costs measured on {here!r}"
                raise BudgetError(f"latency_ms: expected {wanted}, got {self.cost.device!r}; {MEASURE}")
            price = np.array(self.cost.milliseconds)
        else:
            price = np.array(self.model.macs)
        if self.shares is not None:
            return capped_shares(self.shares, max_steps) @ price
        if target == "macs" and self.mean_macs is not None and max_steps in (None, self.model.steps):
            return self.mean_macs
        raise BudgetError(f"{target}: this table's shares are not known; use `gfnet-fast calibrate`")

    def at(self, position: float) -> Floats:
        """The thresholds at a position on the path, 0 (cheapest) to R - 1 (dearest): float32 ``[T]``."""
        last = len(self.thresholds) - 1
        if not 0 <= position <= last:
            raise BudgetError(f"position: expected 0 to {last}, got {position}")
        low = min(int(position), max(last - 1, 0))
        return between(self.thresholds[low], self.thresholds[min(low + 1, last)], position - low)

    def position(self, budget: Budget, *, device: str | None = None) -> float:
        """Where on the path a budget in ``macs`` or ``latency_ms`` is met.

        Raises BudgetError, with the range there is, where it cannot be. Where a group of images with
        equal confidence makes the mean cost jump over the budget, BudgetWarning says so, and the place
        just below the jump comes back. BudgetWarning also where a table whose shares are not known has
        no row of its own to one side of the budget.
        """
        if budget.target not in ("macs", "latency_ms"):
            raise BudgetError(f"position: expected a budget in macs or latency_ms, got {budget}")
        wanted = float(getattr(budget, budget.target))
        costs = self.costs(budget.target, device=device, max_steps=budget.max_steps)
        if not costs.min() * (1 - 1e-9) <= wanted <= costs.max() * (1 + 1e-9):
            cap = budget.max_steps or self.model.steps
            dearest = "nobody exits early" if cap == self.model.steps else f"all take max_steps={cap}"
            digits = ".0f" if budget.target == "macs" else ".6g"
            least, most = format(costs.min(), digits), format(costs.max(), digits)
            span = f"{least} (all exit at the glance) to {most} ({dearest})"
            raise BudgetError(f"{budget.target}: expected {span}, got {wanted:.6g}")
        place = position_of(costs, wanted)
        low, high = costs[int(place)], costs[int(np.ceil(place))]
        if self.shares is None:
            if 0 < place < 1 or len(costs) - 2 < place < len(costs) - 1:
                span = f"between {low:.6g} and {high:.6g} this table says nothing"
                text = f"{budget.target}: {span}, and {wanted:.6g} may be missed; use `gfnet-fast calibrate`"
                warnings.warn(text, BudgetWarning, 3)
            return place
        count = self.count or POINTS
        fineness = max(1 / POINTS, self.model.steps / count)
        limit = min(3 * fineness, max(0.25, 2 / count))  # one image alone moves the mean by about 1 / count
        if high - low > limit * (costs.max() - costs.min()):
            span = f"no thresholds between mean costs {low:.6g} and {high:.6g}, where confidences tie"
            warnings.warn(f"{budget.target}: {span}; {low:.6g} is used for {wanted:.6g}", BudgetWarning, 3)
            return float(int(place))
        return place

    def resolve(self, budget: Budget, *, device: str | None = None) -> Floats:
        """The thresholds that meet a budget: float32 ``[T]``; see :func:`gfnet_fast.exits.resolve`."""
        steps = self.model.steps
        if budget.target == "shares":
            if budget.shares is None or len(budget.shares) != steps:
                raise BudgetError(
                    f"shares: expected {steps} numbers, one a step, got {len(budget.shares or ())}"
                )
            if self.sample is None:
                raise BudgetError(
                    "shares: no held-out confidences; use `gfnet-fast calibrate`, or give thresholds"
                )
            return self._for_shares(self.sample, budget.shares, budget.max_steps)
        if budget.target in ("macs", "latency_ms"):
            return cap_steps(self.at(self.position(budget, device=device)), budget.max_steps)
        return resolve(budget, steps, self)

    def _for_shares(self, sample: Floats, shares: tuple[float, ...], max_steps: int | None) -> Floats:
        """Thresholds that come nearest to shares; where too few images are left at a step, all leave there.

        The official search turns such an exit off instead. BudgetWarning where the sample's shares are
        others than asked for.
        """
        steps, count = sample.shape
        row = np.full(steps, NEVER, np.float32)
        row[-1] = ALWAYS
        staying = np.arange(count)
        for k, wanted in enumerate(wanted_counts(shares, steps, count)[:-1]):
            here = sample[k, staying]
            if leaving := min(int(wanted), len(here)):
                row[k] = np.partition(here, len(here) - leaving)[len(here) - leaving]
                staying = staying[here < row[k]]
        row = cap_steps(row, max_steps)
        asked = capped_shares(np.array([shares], np.float64), max_steps)[0]
        realised = curve(sample, row[None])[0][0]
        dropped = (asked > 0) & (realised == 0)
        if dropped.any() or np.abs(realised - asked).max() > max(0.01, 2 / count):
            wanted_text, text = (", ".join(f"{share:.3g}" for share in each) for each in (asked, realised))
            warnings.warn(f"shares: asked for {wanted_text}; realised {text}", BudgetWarning, 4)
        return row

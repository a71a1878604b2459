"""What the networks of bench/photographs.py said, compared on the same photographs.

    python bench/compared.py waste RUNS      # all seeds in RUNS; rows go to bench/results/photographs.csv

A static network at a cost between two sizes is their mixture: each photograph by the one or the other, in the
proportion that costs as much on average. Differences are paired by photograph; intervals are of 95 %, from
10,000 bootstrap draws not of photographs but of the runs that the data were divided in: all that the splits
report of a run is drawn together.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rows import commit

from gfnet_fast.config import GFNetConfig
from gfnet_fast.exits import Budget, ModelIdentity, calibrate, exit_steps
from gfnet_fast.tables import merge_rows

DRAWS = 10_000
BUDGETS = (1.1, 1.25, 1.5, 2.0)  # times the glance's multiply-adds
RESULTS = Path(__file__).parent / "results" / "photographs.csv"
KEY = ("task", "what", "seeds")
FIELDS = (
    *KEY, "macs", "accuracy", "low", "high", "difference", "difference_low", "difference_high",
    "photographs", "commit",
)  # fmt: skip
Array = NDArray[np.float64]


class Said(NamedTuple):
    """confidence float32 and right bool ``[T, N]`` of held-out and reported photographs; macs ``[T]``."""

    heldout: tuple[Any, Any]
    report: tuple[Any, Any]
    macs: Array
    seconds: float


class Seed(NamedTuple):
    """One split: its networks by name, and the run that each reported photograph is of."""

    networks: dict[str, Said]
    runs: list[str]
    config: GFNetConfig


def read(folder: Path) -> Seed:
    parts = json.loads((folder / "parts.json").read_text())
    networks = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as content:
            halves = []
            for name, labels in zip(("heldout", "report"), parts["labels"], strict=True):
                chance, label = torch.from_numpy(content[name]).softmax(-1).max(-1)
                halves.append((chance, label == torch.tensor(labels)))
            heldout, report = halves
            macs, seconds = content["macs"].astype(float), float(content["seconds"])
            networks[path.stem] = Said(heldout, report, macs, seconds)
    config = GFNetConfig.from_dict(json.loads((folder / "gfnet" / "config.json").read_text())["config"])
    return Seed(networks, parts["runs"], config)


def mixture(seed: Seed, cost: float) -> Array:
    """How right static networks are of that mean cost, for each photograph: 0 to 1."""
    curve = sorted(
        (s.macs[0], s.report[1][0].numpy()) for n, s in seed.networks.items() if n.startswith("static")
    )
    costs = [macs for macs, _ in curve]
    cost = min(max(cost, costs[0]), costs[-1])
    above = min(max(int(np.searchsorted(costs, cost)), 1), len(costs) - 1)
    (low, cheap), (high, dear) = curve[above - 1 : above + 1]
    share = (cost - low) / (high - low)
    return (1 - share) * cheap + share * dear


def early(seed: Seed, budget: float | None) -> tuple[Array, Array]:
    """What each photograph costs and whether it is right, at thresholds found on the held-out ones.

    `budget` is of mean multiply-adds, in units of the glance's; None is the default.
    """
    said = seed.networks["gfnet-learned"]
    c = seed.config
    assert c.macs is not None
    model = ModelIdentity(c.name, c.patch_size, c.steps, c.macs)
    found = calibrate(model, *(x.numpy() for x in said.heldout), data_hash="")
    row = found.thresholds[found.default_row]
    if budget is not None:
        row = found.resolve(Budget(macs=budget * said.macs[0]))
    confidence, right = (x.numpy() for x in said.report)
    steps = exit_steps(confidence, row)
    return said.macs[steps - 1], right[steps - 1, np.arange(len(steps))].astype(float)


def interval(values: Array, runs: Sequence[str]) -> tuple[float, float]:
    """Of the mean, in percent, from draws of whole runs."""
    _, at = np.unique(runs, return_inverse=True)
    sums, counts = np.bincount(at, values), np.bincount(at)
    picks = np.random.default_rng(0).integers(0, len(sums), (DRAWS, len(sums)))
    means = 100 * sums[picks].sum(1) / counts[picks].sum(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def row_of(
    what: str, runs: Sequence[str], costs: Sequence[Array], right: Sequence[Array], than: Sequence[Array] = ()
) -> dict[str, Any]:
    """A row of the table: arrays by seed, of each photograph; the difference is to `than`."""
    hits = np.concatenate(right)
    found: dict[str, Any] = {"what": what, "macs": round(float(np.concatenate(costs).mean()))}
    measured = [("accuracy", "low", "high", hits)]
    if than:
        names = ("difference", "difference_low", "difference_high")
        measured.append((*names, hits - np.concatenate(than)))
    for name, low, high, values in measured:
        ends = interval(values, runs)
        of_all = (100 * float(values.mean()), *ends)
        found |= {key: round(value, 2) for key, value in zip((name, low, high), of_all, strict=True)}
    return {**found, "photographs": len(hits)}


def rows_of(seeds: Sequence[Seed]) -> list[dict[str, Any]]:
    """One row for each network, policy, step and budget, over all seeds' photographs."""
    runs = [run for seed in seeds for run in seed.runs]
    first = seeds[0].networks
    statics = [name for name in first if name.startswith("static")]
    full = max(statics, key=lambda name: first[name].macs[0])
    rows = []

    def at(name: str, step: int) -> list[Array]:
        return [seed.networks[name].report[1][step].numpy().astype(float) for seed in seeds]

    for name in statics:
        right = at(name, 0)
        rows.append(row_of(name, runs, [np.full(len(r), first[name].macs[0]) for r in right], right))
    for name in (name for name in first if name not in statics):
        for step, macs in enumerate(first[name].macs):
            right = at(name, step)
            costs = [np.full(len(r), macs) for r in right]
            equal = [mixture(seed, macs) for seed in seeds]
            rows.append(
                row_of(f"{name}, step {step + 1}, less static at equal cost", runs, costs, right, equal)
            )
    for budget in (None, *BUDGETS):
        pairs = [early(seed, budget) for seed in seeds]
        costs, right = [cost for cost, _ in pairs], [hits for _, hits in pairs]
        what = "exits, default" if budget is None else f"exits, {budget:g} glances"
        equal = [mixture(seed, float(cost.mean())) for seed, cost in zip(seeds, costs, strict=True)]
        rows.append(row_of(f"{what}, less static at equal cost", runs, costs, right, equal))
        if budget is None:
            rows.append(row_of(f"{what}, less static at full size", runs, costs, right, at(full, 0)))
            rows.append(row_of(f"{what}, less all steps", runs, costs, right, at("gfnet-learned", -1)))
    learned = at("gfnet-learned", -1)
    costs = [np.full(len(r), first["gfnet-learned"].macs[-1]) for r in learned]
    for policy in ("random", "centre"):
        what = f"learned crops, all steps, less {policy}"
        rows.append(row_of(what, runs, costs, learned, at(f"gfnet-{policy}", -1)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("runs", type=Path)
    options = parser.parse_args()
    folders = sorted(options.runs.glob(f"{options.task}-*"))
    if not folders:
        parser.error(f"runs: expected {options.runs / options.task}-SEED of bench/photographs.py, got none")
    seeds = [read(folder) for folder in folders]
    names = " ".join(folder.name.rpartition("-")[2] for folder in folders)
    rows = [{"task": options.task, "seeds": names, **row, "commit": commit()} for row in rows_of(seeds)]
    merge_rows(RESULTS, KEY, FIELDS, rows)
    for row in rows:
        text = f"{row['what']:48} {row['macs'] / 1e6:7.1f} M  {row['accuracy']:5.1f} "
        text += f"({row['low']:.1f} to {row['high']:.1f})"
        if "difference" in row:
            text += (
                f"  {row['difference']:+5.1f} ({row['difference_low']:+.1f} to {row['difference_high']:+.1f})"
            )
        print(text)


if __name__ == "__main__":
    main()

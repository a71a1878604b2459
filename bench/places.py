"""Whether a better policy would help: the second step's answer at each of fifteen places, on one split.

    python bench/places.py waste --data FOLDER --output RUNS --seed 0

Reads RUNS/TASK-SEED/gfnet of bench/photographs.py. Prints, in percent right at step 2: the glance, the mean
of all places, the best place in hindsight (the label chooses), and the place that a ridge regression on the
glance's feature map says, fitted on how sure of the truth the network is at every place of the training
images, which no policy is ever told; and the same fitted on one half of the other photographs, which the
network did not train on, and measured on the other half.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from photographs import TASKS, batches, cells
from torch import Tensor

from gfnet_fast.checkpoints import load
from gfnet_fast.data.folder import Part, read_parts
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training.unroll import Views

PLACES = [(row, column) for row in (0.0, 0.25, 0.5, 0.75, 1.0) for column in (0.0, 0.5, 1.0)]
RIDGE = 1e4


class Seen(NamedTuple):
    """maps ``[N, D]``; sure, right ``[N, P]``: the truth's probability and hits by place; glance ``[N]``."""

    maps: Tensor
    sure: Tensor
    right: Tensor
    glance: Tensor

    def rows(self, keep: Tensor) -> "Seen":
        return Seen(*(part[keep] for part in self))


@torch.no_grad()
def seen(model: GFNet, part: Part) -> Seen:
    found = []
    for images, labels in batches(model, part):
        views = Views(model, images)
        logits, state = model.first_step(views.thumbnail())
        answers = []
        for place in PLACES:
            patch = views.patch(torch.tensor(place).expand(len(images), 2))
            answers.append(model.next_step(patch, state, 2)[0])
        chances = torch.stack(answers, 1).softmax(2)
        sure = chances.gather(2, labels[:, None, None].expand(-1, len(PLACES), 1))[..., 0]
        right = chances.argmax(2) == labels[:, None]
        glance = logits.argmax(1) == labels
        found.append((state.feature_map.flatten(1), sure, right.float(), glance.float()))
    return Seen(*(torch.cat(column) for column in zip(*found, strict=True)))


def chosen(fit: Seen, judge: Seen) -> Tensor:
    """Hits ``[N]`` at the places that a regression fitted on the one says of the other."""
    mean, std = fit.maps.mean(0), fit.maps.std(0) + 1e-3
    x, y = (fit.maps - mean) / std, (judge.maps - mean) / std
    gain = fit.sure - fit.sure.mean(1, keepdim=True)
    weights = torch.linalg.solve(x @ x.T + RIDGE * torch.eye(len(x)), gain)
    return judge.right.gather(1, (y @ x.T @ weights).argmax(1, keepdim=True)).squeeze(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = TASKS[options.task].config(options.seed)
    data = options.data or cells(options.output / "cells")
    parts = read_parts(data, config.heldout, config.validation, config.split_seed, config.split_run)
    model = load(options.output / f"{options.task}-{options.seed}" / "gfnet").eval()
    train, *others = (seen(model, part) for part in parts[1:])
    other = Seen(*(torch.cat(pair) for pair in zip(*others, strict=True)))
    runs = np.concatenate([part.runs for part in parts[2:]])
    half = np.random.default_rng(0).permutation(np.unique(runs))[: len(np.unique(runs)) // 2]
    first = torch.from_numpy(np.isin(runs, half))
    crossed = [chosen(other.rows(a), other.rows(b)) for a, b in ((first, ~first), (~first, first))]
    best = other.right.gather(1, other.sure.argmax(1, keepdim=True))
    for what, value in (
        ("glance", other.glance),
        ("mean of all places", other.right),
        ("best place in hindsight", best),
        ("regression on training images", chosen(train, other)),
        ("regression on other photographs", torch.cat(crossed)),
    ):
        print(f"{what:32} {100 * value.mean().item():5.1f}")
    by_place = " ".join(f"{100 * value:.1f}" for value in other.right.mean(0).tolist())
    print(f"{len(runs)} photographs; by place, top left to bottom right: {by_place}")
    print(f"training images: glance {100 * train.glance.mean().item():.1f}")


if __name__ == "__main__":
    main()

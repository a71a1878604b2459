"""Glance and crop of two checkouts in one process, call by call in turn: python bench/beside.py OTHER

OTHER is a checkout of another commit, its compiled modules built. Milliseconds an image: median and quartiles
of the rounds.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import quantiles
from types import ModuleType

import gfnet_kernels
import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def beside(checkout: Path) -> ModuleType:
    """`gfnet_kernels` of another checkout, called past torch's dispatcher, which has one op of a name."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "gfnet_kernels"]:
        del sys.modules[name]
    library, fake = torch.library.Library, torch.library.register_fake
    sys.path.insert(0, str(checkout / "kernels"))
    try:
        torch.library.Library = lambda name, kind: library("gfnet_kernels_beside", kind)  # type: ignore
        torch.library.register_fake = lambda *args, **kwargs: None  # type: ignore
        import gfnet_kernels as other
    finally:
        torch.library.Library, torch.library.register_fake = library, fake  # type: ignore
        del sys.path[0]
    if not Path(str(other.__file__)).is_relative_to(checkout):
        raise RuntimeError(f"expected gfnet_kernels of {checkout}, got {other.__file__}")
    return other


@torch.inference_mode()
def measure(both: dict[str, ModuleType], rows: int, rounds: int) -> None:
    pictures = [torch.randint(0, 256, (224, 224, 3), dtype=torch.uint8) for _ in range(256)]
    slots, origins = torch.randperm(256)[:rows].int(), torch.randint(0, 128, (rows, 2)).int()
    out = torch.empty(rows, 3, 96, 96).contiguous(memory_format=torch.channels_last)
    calls: dict[str, Callable[[], object]] = {}
    for name, kernels in both.items():
        table = kernels.ImageTable.of(pictures)
        more = MEAN, STD, torch.float32
        calls[f"glance {name}"] = partial(kernels.glance, table, slots, 96, "bicubic", *more, out=out)
        calls[f"crop {name}"] = partial(kernels.crop, table, slots, origins, 96, *more, out=out)
    values, burst = torch.randn(1 << 22), max(1, 32 // rows)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            values.mul_(1.0)  # as in an engine, torch's threads have just worked
            start = time.perf_counter()
            for _ in range(burst):
                call()
            samples[name].append((time.perf_counter() - start) * 1e3 / burst / rows)
    for name, found in samples.items():
        low, middle, high = quantiles(found, n=4)
        about = f"{torch.get_num_threads()} threads {rows:3} rows  {name:14}"
        print(f"{about} {middle:.4f} ({low:.4f} to {high:.4f})", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=41)
    options = parser.parse_args()
    both = {"here": gfnet_kernels, "other": beside(options.other.resolve())}
    for threads in options.threads:
        torch.set_num_threads(threads)
        for rows in (64, 8, 1):
            measure(both, rows, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

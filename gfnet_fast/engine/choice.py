"""How fast each runtime is for a model on this machine: measured once, kept in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gfnet_fast import __version__
from gfnet_fast.config import GFNetConfig
from gfnet_fast.engine.engine import Engine
from gfnet_fast.engine.runtimes import runtimes
from gfnet_fast.exits.identity import device_name
from gfnet_fast.files import json_text, parse_json, read_text, write_text

SECONDS = 1e-7, 1e5  # what a launch may take, and what is not believed of a file


@dataclass(frozen=True)
class Speed:
    """Of one runtime: seconds to prepare it, and of a glance and a focus pass together by batch size."""

    prepare: float
    seconds: dict[int, float]


class Choice:
    """The speeds that are known for one model and one precision.

    The file is found by what the speeds depend on: the machine, the number of threads, the model, the
    precision. One that cannot be read, or says that it is for something else, is as none; one that cannot be
    written is not kept.
    """

    def __init__(self, config: GFNetConfig, dtype: torch.dtype, device: torch.device, folder: Path) -> None:
        self._key: dict[str, Any] = {
            "machine": device_name(device),
            "features": _features(),
            "version": __version__,
            "model": config.to_dict(),
            "dtype": str(dtype).removeprefix("torch."),
        }
        digest = hashlib.sha256(json_text(self._key).encode()).hexdigest()
        self.place = folder / f"{digest[:32]}.json"
        self._speeds = self._read()

    def speed(self, runtime: str) -> Speed | None:
        """What is known of it; None where nothing is, or where it was measured in another version."""
        return self._speeds.get(runtime)

    def seconds(self, runtime: str, rows: int) -> float | None:
        """What an image is known to take, a glance and a focus pass, in launches of at most so many rows."""
        speed = self.speed(runtime)
        fitting = [size for size in speed.seconds if size <= rows] if speed else []
        return speed.seconds[max(fitting)] / max(fitting) if speed and fitting else None

    def note(self, runtime: str, prepare: float, seconds: dict[int, float]) -> None:
        """Keep what was measured, beside what others have found meanwhile."""
        known = self._speeds.get(runtime, Speed(prepare, {}))
        merged = Speed(prepare, known.seconds | seconds)
        self._speeds = self._read() | self._speeds | {runtime: merged}
        content = {"for": self._key, "runtimes": {name: _told(name, it) for name, it in self._speeds.items()}}
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.place, json_text(content))
        except OSError:
            return

    def _read(self) -> dict[str, Speed]:
        try:
            content = parse_json(read_text(self.place))
            if content["for"] != self._key:
                return {}
            found = {name: _heard(name, told) for name, told in content["runtimes"].items()}
            return {name: speed for name, speed in found.items() if speed is not None}
        except Exception:  # half written, damaged, or somebody else's
            return {}


def contest(engines: Sequence[Engine], rows: int) -> list[float]:
    """Seconds of a glance and a focus launch of so many rows on each: in turn, the best of three.

    What is measured while an engine is built is one launch, on a machine that may have been busy just then.
    """
    times = [[engine.time_of(rows) for engine in engines] for _ in range(3)]
    return [min(taken) for taken in zip(*times, strict=True)]


def _told(name: str, speed: Speed) -> dict[str, Any]:
    return {"version": _version(name), **asdict(speed)}


def _heard(name: str, told: dict[str, Any]) -> Speed | None:
    """None for a runtime that is not here or has another version; ValueError for what are no times."""
    if told["version"] != _version(name):
        return None
    seconds = {int(rows): float(taken) for rows, taken in told["seconds"].items()}
    prepare, (least, most) = float(told["prepare"]), SECONDS
    if not (0 <= prepare < most and all(least < taken < most for taken in seconds.values())):
        raise ValueError("expected seconds")
    if min(seconds, default=1) < 1:
        raise ValueError("expected batch sizes")
    return Speed(prepare, seconds)


def _version(name: str) -> str:
    try:
        return runtimes()[name].version()
    except (KeyError, ImportError):
        return ""


def _features() -> str:
    """A digest of what the processor can, where Linux tells it: names of virtual ones say little."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(flags.encode()).hexdigest()[:16]

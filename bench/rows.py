"""Rows of measurements in a table, and what says where they were measured."""

import csv
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """The checkout's, or what GFNET_COMMIT says where the tree travelled without its history."""
    if named := os.environ.get("GFNET_COMMIT"):
        return named
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def processor() -> str:
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "")
    return f"{name or platform.machine()}, {torch.get_num_threads()} thread(s)"


def driver() -> str:
    """The GPU driver's version; empty without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0]
    except (OSError, subprocess.TimeoutExpired):
        return ""


def merge(path: Path, key: Sequence[str], fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows into a table; a row with the same key is replaced."""
    table: dict[tuple[str, ...], Mapping[str, Any]] = {}
    old = list(csv.DictReader(path.open())) if path.exists() else []
    for row in (*old, *rows):
        table[tuple(str(row[name]) for name in key)] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(table[name] for name in sorted(table))

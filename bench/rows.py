"""What says where rows of measurements come from."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "triton", "numpy", "timm", "torchvision")


def commit() -> str:
    """The checkout's, or what GFNET_COMMIT says where the tree travelled without its history."""
    return os.environ.get("GFNET_COMMIT") or said(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])


def processor() -> str:
    import torch

    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "")
    return f"{name or platform.machine()}, {torch.get_num_threads()} thread(s)"


def driver() -> str:
    """The GPU driver's version; empty without one."""
    return said(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])


def versions() -> dict[str, str]:
    """What things run on, by name: packages, Python, driver and GPU; "" for what is not there.

    Nothing heavy is imported for it.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    gpu = said(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return found | {"driver": driver(), "gpu": gpu}


def said(command: Sequence[str]) -> str:
    """The first line of what a command says; empty where it is not there, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""

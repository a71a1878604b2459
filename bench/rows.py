"""What says where rows of measurements come from."""

import os
import platform
import subprocess
from pathlib import Path

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

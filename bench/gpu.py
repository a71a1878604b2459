"""What only a GPU can show, in one command: make gpu OUT=folder, or python bench/gpu.py --out folder.

    build      the compiled scheduler, from this tree, without isolation and without a network
    tests      pytest -m gpu, but the long random traffic
    sanitizer  compute-sanitizer's four tools on a tiny case of each kernel
    kernels    bench/kernels.py: each kernel beside what torch offers
    record     bench/record.py: the two ceilings, the ladder, latency at batch 1, what is not the networks'
    engine     bench/engine.py: two models in bfloat16 at batch 128, 32 and 512, p = 0.25, 0.5 and 1

and, where --only names them, since with these it is more than ten minutes:

    compiled   the ladder and the engine again with compiled networks
    tuning     bench/tuning.py: layouts, compiled and not, sets of buckets, tile sizes
    float16    the engine in float16 and in float32
    traffic    a minute of random traffic

In this order, each within its own time and all within the budget. A part that fails, or runs out of time, or
finds none left, is said so, and those after it go on; the exit status is 1 then. The folder gets kernels.csv,
record.csv, engine.csv, tests.xml, log.txt and summary.json, which are written as the parts go. `--dry` runs
the same parts without a GPU: plain calls instead of compute-sanitizer and graphs, and tiny sizes.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
MODELS = ("resnet50_96_T5", "mobilenetv3_large_100_96_T3")
LEAST = 5.0  # seconds: with fewer left a part is not begun


@dataclass(frozen=True)
class Part:
    """Commands that run one after the other, or `together`, within `limit` seconds in all.

    `instead`: they are ways to the same end, and the first that succeeds is enough.
    """

    name: str
    limit: float
    commands: Sequence[Sequence[str]]
    together: bool = False
    instead: bool = False
    environment: Mapping[str, str] | None = None
    asked: bool = False  # runs only where --only names it


@dataclass(frozen=True)
class Outcome:
    """`status`: ok, failed, timed out, or no time left; `codes`: the commands' own, None where killed."""

    part: str
    status: str
    seconds: float
    codes: Sequence[int | None] = ()


def parts_of(out: Path, dry: bool) -> list[Part]:
    """Everything, for a GPU or for a rehearsal without one."""
    python, bench = sys.executable, str(ROOT / "bench")
    device = ["--device", "cpu" if dry else "cuda"]
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    files = ["tests/kernels/test_gpu.py", "tests/engine/test_engine_gpu.py"]
    sanitized = [python, f"{bench}/sanitized.py", *device]
    kernels = [python, f"{bench}/kernels.py", *device, "--write", "--results", str(out / "kernels.csv")]
    record = [python, f"{bench}/record.py", "--out", str(out / "record.csv"), *device]
    tuning = [python, f"{bench}/tuning.py", "--out", str(out / "record.csv"), *device]
    engine = [python, f"{bench}/engine.py", *device, "--write", "--results", str(out / "engine.csv")]
    on = {"GFNET_GPU_TESTS": "cpu"} if dry else {}
    tests = [*pytest, *files, "-k", "not traffic", f"--junitxml={out / 'tests.xml'}"]
    traffic = [*pytest, files[1], "-k", "traffic"]
    if dry:
        small = f"--configs {MODELS[1]} --images 8 --batch 4 --dtype float32 --rounds 1 --tiny".split()
        one = ["--config", MODELS[1], "--images", "8", "--batch", "4", "--baselines", "4", "--rounds", "1"]
        return [
            Part("build", 300, [by_cmake(out / "build", out / "build")]),  # this environment stays as it is
            Part("tests", 300, [tests], environment=on),
            Part("sanitizer", 120, [sanitized] * 2, together=True),
            Part("kernels", 120, [[*kernels, "--quick"]]),
            Part("record", 300, [[*record, *small, "--baselines", "4"]]),
            Part("engine", 200, [[*engine, *one]]),
            Part("tuning", 200, [[*tuning, *small, "--backbones", MODELS[1]]]),
            Part("traffic", 120, [traffic], environment=on | {"GFNET_TRAFFIC_SECONDS": "2"}),
        ]
    pip = [python, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "-e", "."]
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--target-processes", "application-only"]
    checks = [[*sanitizer, "--tool", tool, *sanitized] for tool in TOOLS]
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    several = ["--images", "8192", "--baselines", "512", "--rounds", "5"]

    def engines(dtypes: Sequence[str], *more: str) -> list[list[str]]:
        return [
            [*engine, "--config", model, "--batch", batch, "--dtype", dtype, *several, *more]
            for dtype in dtypes
            for batch in ("128", "32", "512")
            for model in MODELS
        ]

    ladders = [[*record, "--compile", "--configs", model, "ladder"] for model in MODELS]
    return [
        Part("build", 60, [pip, by_cmake(ROOT / "build" / "gpu", ROOT / "gfnet_fast")], instead=True),
        Part("tests", 120, [tests]),
        Part("sanitizer", 80, checks, together=True, environment=uncached),
        Part("kernels", 70, [[*kernels, "--seconds", "0.1", "--no-compile"]]),
        Part("record", 110, [record]),
        Part("engine", 120, engines(["bfloat16"])),
        Part("compiled", 500, [*ladders, *engines(["bfloat16"], "--compile")], asked=True),
        Part("tuning", 300, [tuning, [*tuning, "--compile", "tuning"]], asked=True),
        Part("float16", 250, engines(["float16", "float32"]), asked=True),
        Part("traffic", 120, [traffic], environment={"GFNET_TRAFFIC_SECONDS": "60"}, asked=True),
    ]


def by_cmake(build: Path, target: Path) -> list[str]:
    """Configure, build and install the extension into `target`, without pip."""
    steps = f"""
        cmake -S '{ROOT}' -B '{build}' -DGFNET_PYTHON=ON -DCMAKE_BUILD_TYPE=Release \\
            -DCMAKE_INSTALL_PREFIX='{target}' -DPython_EXECUTABLE='{sys.executable}' \\
            -Dpybind11_DIR="$('{sys.executable}' -m pybind11 --cmakedir)" &&
        cmake --build '{build}' --target _scheduler --parallel &&
        cmake --install '{build}' --component python"""
    return ["bash", "-c", steps]


def run_parts(parts: Sequence[Part], out: Path, budget: float, about: Mapping[str, Any]) -> list[Outcome]:
    """Run them all; the log and the summary are written as they end."""
    begin, outcomes = time.monotonic(), list[Outcome]()
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("a") as log:
        for part in parts:
            left = budget - (time.monotonic() - begin)
            outcomes.append(run(part, left, log) if left >= LEAST else Outcome(part.name, "no time left", 0))
            say(outcomes[-1])
            summary = {**about, "budget": budget, "parts": [asdict(outcome) for outcome in outcomes]}
            (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return outcomes


def run(part: Part, left: float, log: TextIO) -> Outcome:
    """One part, in `left` seconds at most."""
    begin = time.monotonic()
    until = begin + min(part.limit, left)
    environment = environment_of(part)
    codes: list[int | None]
    if part.together:
        with ThreadPoolExecutor(len(part.commands)) as pool:
            found = list(pool.map(lambda command: call(command, until, environment), part.commands))
        codes = [code for code, _ in found]
        for command, (code, text) in zip(part.commands, found, strict=True):
            note(log, part, command, code, text)
    else:
        codes = []
        for command in part.commands:
            code, text = call(command, until, environment)
            codes.append(code)
            note(log, part, command, code, text)
            if code is None or (part.instead and code == 0):
                break
    good = codes[-1] == 0 if part.instead else not any(codes) and None not in codes
    status = "ok" if good else "timed out" if None in codes else "failed"
    return Outcome(part.name, status, round(time.monotonic() - begin, 1), codes)


def environment_of(part: Part) -> dict[str, str]:
    """This process's, with the tree ahead of anything installed."""
    path = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(part.environment or {})}


def call(command: Sequence[str], until: float, environment: Mapping[str, str]) -> tuple[int | None, str]:
    """A command's exit status (None: its time was over; all it had started is killed) and its output."""
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, errors="replace", start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        return 127, f"{command[0]}: {error}\n"
    try:
        text, _ = process.communicate(timeout=max(until - time.monotonic(), 0.1))
        return process.returncode, text
    except subprocess.TimeoutExpired:
        return None, stop(process)
    except BaseException:
        stop(process)
        raise


def stop(process: "subprocess.Popen[str]") -> str:
    """Kill a command with all it started; what it had said."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0]


def note(log: TextIO, part: Part, command: Sequence[str], code: int | None, text: str) -> None:
    """Into the log; the end of what a command that failed has said onto the terminal too."""
    shown = " ".join(command) if command[0] != "bash" else "cmake"
    log.write(f"== {part.name}: {shown}\n{text}\n== {'killed' if code is None else f'status {code}'}\n\n")
    log.flush()
    if code != 0:
        print(f"-- {part.name}: {shown}\n{text[-2000:]}", flush=True)


def say(outcome: Outcome) -> None:
    codes = ", ".join("killed" if code is None else str(code) for code in outcome.codes)
    print(f"{outcome.part:10} {outcome.status:12} {outcome.seconds:6.1f} s  {codes}", flush=True)


def machine_of(dry: bool) -> dict[str, Any]:
    """What the rows were measured on; `cuda`: whether there is a GPU at all."""
    import torch
    import triton

    about: dict[str, Any] = {"cuda": torch.cuda.is_available(), "dry": dry, "torch": torch.__version__}
    about |= {"triton": triton.__version__, "python": sys.version.split()[0]}
    about["commit"] = os.environ.get("GFNET_COMMIT", "")
    if about["cuda"]:
        about |= {"gpu": torch.cuda.get_device_name(), "cuda_version": torch.version.cuda}
    if shutil.which("nvidia-smi"):
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,clocks.sm,clocks.mem",
            "--format=csv,noheader",
        ]
        about["nvidia-smi"] = call(query, time.monotonic() + 20, os.environ)[1].strip()
    return about


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-results")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts")
    parser.add_argument("--budget", type=float, default=570, metavar="SECONDS", help="for all of it")
    parser.add_argument("--dry", action="store_true", help="without a GPU, with tiny sizes")
    options = parser.parse_args()
    out = options.out.resolve()
    parts = parts_of(out, options.dry)
    known = [part.name for part in parts]
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"--only: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    about = machine_of(options.dry)
    if not about["cuda"] and not options.dry:
        print("gpu: expected a CUDA GPU, got none; --dry rehearses without one", file=sys.stderr)
        return 1
    chosen = [part for part in parts if (part.name in options.only if options.only else not part.asked)]
    outcomes = run_parts(chosen, out, options.budget, about)
    bad = [outcome for outcome in outcomes if outcome.status != "ok"]
    print(f"{len(outcomes) - len(bad)} of {len(outcomes)} parts ok; {out}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

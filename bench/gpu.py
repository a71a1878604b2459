"""What only a GPU can show, for a machine that one has for minutes.

    python bench/gpu.py first --out FOLDER          what is broken, all of it, in 200 seconds
        build       the compiled modules, from this tree, without a network
        launches    a tiny launch of every kernel and a captured one of each stage, against references
        tests       pytest -m gpu, but the long random traffic; each file in a process of its own
        sanitizer   compute-sanitizer's four tools on the tiny launches, while time lasts

    python bench/gpu.py proof --out FOLDER          what it gives, in 400 seconds
        build       as above
        measure     bench/proof.py: control, ladder, kernels, engine, in this order

    python bench/gpu.py --only PART ...             any of these parts, or
        compiled    control, ladder and engine again with compiled networks, at batch 128
        tuning      bench/tuning.py: layouts, sets of buckets, tile sizes
        float16     the engine in float16 and in float32
        latency     the ceilings, and batch 1
        traffic     a minute of random traffic

Each part has its time, and all together the plan's. None stops another: a process that dies is begun again
behind the task or the test that it died of, and one whose time is over says what every thread was doing. The
folder gets log.txt and summary.json, a JUnit file for each file of tests, and the tables, all written as they
come. The exit status is 1 where anything failed.

`--dry` goes the same ways without a GPU, with tiny sizes. It adds up what each part is expected to take on
one (expected.py, by the counts of the plan at its full size), and fails too where that is more than there is.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from plans import PATIENCE, PLANS, SECONDS, parts_of
from rows import commit, versions
from running import ROOT, Log, Part, Run, run_part
from tasks import WAITING

LEAST = 5.0  # seconds: with fewer left a part is not begun
LONGEST = 570.0  # seconds for parts that --only names
KEPT = ("log.txt", "summary.json", "kernels.xml", "engine.xml")  # an earlier run's go; rows are merged


def run_parts(
    parts: Sequence[Part], out: Path, budget: float, about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Run them all; what became of each, which is also written to the summary as they end."""
    begin, found = time.monotonic(), list[dict[str, Any]]()
    out.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        (out / name).unlink(missing_ok=True)
    log = Log(out / "log.txt")
    log.add("gpu", listed(about))
    try:
        with tempfile.TemporaryDirectory() as folder:
            for part in parts:
                began = time.monotonic()
                left = begin + budget - began
                runs = run_part(part, begin + budget, log, Path(folder)) if left >= LEAST else []
                found.append(outcome(part, runs, time.monotonic() - began))
                say(part, runs, found[-1])
                summary = {**about, "budget": budget, "parts": found}
                (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    finally:
        log.close()
    return found


def listed(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items() if value)


def outcome(part: Part, runs: Sequence[Run], seconds: float) -> dict[str, Any]:
    """`status`: ok, failed, timed out, or no time left; `expected`: seconds on a GPU."""
    codes = [code for run in runs for code in run.codes]
    status = "ok" if runs and all(run.good for run in runs) else "timed out" if None in codes else "failed"
    total = (max if part.together else sum)([run.expected for run in runs] or [0.0])
    return {
        "part": part.name, "status": status if runs else "no time left", "seconds": round(seconds, 1),
        "expected": round(total, 1), "codes": {run.command.name: run.codes for run in runs},
        "tasks": {run.command.name: run.tasks for run in runs},
    }  # fmt: skip


def say(part: Part, runs: Sequence[Run], found: Mapping[str, Any]) -> None:
    """On the terminal: the part, and of a command that failed the end of what it said and its tests."""
    for run in runs:
        if not run.good:
            print(f"-- {part.name}, {run.command.name}:", *run.tail, sep="\n   ", flush=True)
            junit = run.command.environment.get("GFNET_JUNIT")
            print(*problems(Path(junit)) if junit else (), sep="\n", flush=True)
    codes = (
        f"{name} {'ended' if None in code else code}"
        for name, code in found["codes"].items()
        if any(code) or None in code
    )
    print(
        f"{part.name:10} {found['status']:12} {found['seconds']:6.1f} s, expected {found['expected']:6.1f}",
        *codes, flush=True,
    )  # fmt: skip


def problems(junit: Path) -> Iterator[str]:
    """A line for each test of a JUnit file that failed, was running or has not run."""
    if not junit.exists():
        return
    for case in ElementTree.parse(junit).iter("testcase"):
        for kind, word in (("failure", "failed"), ("error", "error"), ("skipped", "open")):
            if (found := case.find(kind)) is not None:
                message = found.get("message", "")
                if kind != "skipped" or message == WAITING:
                    yield f"   {word}: {case.get('classname')}::{case.get('name')}: {message}"


def table(found: Sequence[Mapping[str, Any]], budget: float) -> str:
    """What each task took here and is expected to take on a GPU, and their sum."""
    lines = [f"{'':60} {'here':>7} {'on a GPU':>9}"]
    for part in found:
        lines.append(f"{part['part']:60} {part['seconds']:7.1f} {part['expected']:9.1f}")
        for tasks in part["tasks"].values():
            lines += [f"    {name:56} {here:7.1f} {there:9.1f}" for name, (_, here, there) in tasks.items()]
    here, there = (sum(part[name] for part in found) for name in ("seconds", "expected"))
    return "\n".join([*lines, f"{f'all, of {budget:.0f} s':60} {here:7.1f} {there:9.1f}"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", nargs="?", choices=PLANS)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-results")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts")
    parser.add_argument("--dry", action="store_true", help="without a GPU, with tiny sizes")
    options = parser.parse_args()
    out = options.out.resolve()
    parts = parts_of(out, options.dry)
    if bool(options.plan) == bool(options.only):
        parser.error(
            f"expected one of {', '.join(PLANS)}, or --only, got {'both' if options.plan else 'neither'}"
        )
    if unknown := set(options.only or ()) - set(parts):
        parser.error(f"--only: expected some of {', '.join(parts)}, got {', '.join(sorted(unknown))}")
    about = {**versions(), "commit": commit(), "dry": options.dry}
    print(listed(about), flush=True)
    if not about["gpu"] and not options.dry:
        print(
            "gpu: expected a CUDA GPU that nvidia-smi shows, got none; --dry rehearses without one",
            file=sys.stderr,
        )
        return 1
    os.environ |= {"GFNET_COMMIT": about["commit"]} | (
        {"GFNET_PATIENCE": str(PATIENCE)} if options.dry else {}
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    limit = SECONDS.get(options.plan, LONGEST)
    chosen = [parts[name] for name in options.only or PLANS[options.plan]]
    found = run_parts(chosen, out, PATIENCE * limit if options.dry else limit, about)
    bad = [part["part"] for part in found if part["status"] != "ok"]
    if options.dry:
        print(table(found, limit))
        if sum(part["expected"] for part in found) > limit:
            bad.append(f"more than {limit:.0f} s expected")
    print(f"{'; '.join(bad) or 'all ok'}; {out}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

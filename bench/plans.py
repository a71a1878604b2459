"""What runs on a GPU, in which order, and for how long."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import expected
from running import ROOT, Command, Part

PLANS = {"first": ("build", "launches", "tests", "sanitizer"), "proof": ("build", "measure")}
SECONDS = {"first": 200.0, "proof": 400.0}
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
TESTS = {"kernels": "tests/kernels/test_gpu.py", "engine": "tests/engine/test_engine_gpu.py"}
PYTEST = ["-m", "pytest", "-p", "watched", "-p", "no:cacheprovider", "-v", "-m", "gpu"]
CUDA = Path("/usr/local")
PATIENCE = 8  # times as long as on a GPU a rehearsal may take: it has few cores, and not to itself
FRESH = expected.START + expected.CONTEXT


def parts_of(out: Path, dry: bool) -> dict[str, Part]:
    """Every part by its name, for a GPU or for a rehearsal without one.

    A rehearsal has :data:`PATIENCE`, and leaves the compiled modules of this environment as they are.
    """
    device = ["--device", "cpu" if dry else "cuda"]
    tiny = ["--tiny"] if dry else []
    folders = [out / "build"] * 2 if dry else [ROOT / "gfnet_fast", ROOT / "kernels" / "gfnet_kernels"]
    place = out / "build" if dry else ROOT / "build" / "gpu-modules"
    build = Command("cmake", by_cmake(place, *folders), expected.BUILD)

    def bench(script: str, *more: str) -> list[str]:
        return [sys.executable, str(ROOT / "bench" / f"{script}.py"), *more, *device]

    def measured(name: str, *more: str, script: str = "proof") -> Command:
        return Command(name, [*bench(script, *more), "--out", str(out), *tiny], FRESH)

    def tested(name: str, choice: str, **environment: str) -> Command:
        told = {"GFNET_JUNIT": str(out / f"{name}.xml")} | environment
        told |= {"GFNET_GPU_TESTS": "cpu"} if dry else {}
        return Command(name, [sys.executable, *PYTEST, TESTS[name], "-k", choice], FRESH, told)

    times = PATIENCE if dry else 1
    parts = [
        Part("build", 45 * times, [build]),
        Part(
            "launches",
            60 * times,
            [Command("kernels", bench("sanitized"), FRESH), Command("stages", bench("captures"), FRESH)],
            True,
        ),
        Part("tests", 100 * times, [tested(name, "not traffic") for name in TESTS], True),
        Part("sanitizer", 120 * times, sanitizers(bench("sanitized", "--seconds", "60"), dry), True),
        Part("measure", 380 * times, [measured("proof")]),
        Part("compiled", 560, [measured("compiled", "control", "ladder", "engine", "--runtime", "inductor")]),
        Part(
            "tuning",
            560,
            [
                measured("tuning", script="tuning"),
                measured("compiled", "tuning", "--runtime", "inductor", script="tuning"),
            ],
        ),
        Part(
            "float16", 300, [measured(dtype, "engine", "--dtype", dtype) for dtype in ("float16", "float32")]
        ),
        Part("latency", 120, [measured("latency", "ceilings", "latency")]),
        Part("traffic", 120, [tested("engine", "traffic", GFNET_TRAFFIC_SECONDS="2" if dry else "60")]),
    ]
    return {part.name: part for part in parts}


def sanitizers(watched: Sequence[str], dry: bool) -> list[Command]:
    """The four tools; in a rehearsal what they watch, once."""
    if dry:
        return [Command("none", watched, expected.SANITIZED, counted=False)]
    tool = [sanitizer(), "--error-exitcode", "9", "--target-processes", "application-only", "--tool"]
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return [
        Command(name, [*tool, name, *watched], expected.SANITIZED, uncached, counted=False) for name in TOOLS
    ]


def sanitizer() -> str:
    """compute-sanitizer, which need not be on the PATH: it lies in CUDA's own folder, beside nvcc."""
    if found := shutil.which("compute-sanitizer"):
        return found
    nvcc = shutil.which("nvcc")
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    homes += [Path(nvcc).resolve().parent.parent] if nvcc else []
    homes += [CUDA / "cuda", *sorted(CUDA.glob("cuda-*"), reverse=True)]
    for home in homes:
        for path in (home / "bin" / "compute-sanitizer", home / "compute-sanitizer" / "compute-sanitizer"):
            if os.access(path, os.X_OK):
                return str(path)
    return "compute-sanitizer"


def by_cmake(build: Path, scheduler: Path, kernels: Path) -> list[str]:
    """Configure and build the compiled modules, and install them into the folders of their packages."""
    steps = f"""
        cmake -S '{ROOT}' -B '{build}' -DGFNET_PYTHON=ON -DCMAKE_BUILD_TYPE=Release \\
            -DPython_EXECUTABLE='{sys.executable}' \\
            -Dpybind11_DIR="$('{sys.executable}' -m pybind11 --cmakedir)" &&
        cmake --build '{build}' --target _scheduler _cpu --parallel &&
        cmake --install '{build}' --prefix '{scheduler}' --component _scheduler &&
        cmake --install '{build}' --prefix '{kernels}' --component _cpu"""
    return ["bash", "-c", steps]

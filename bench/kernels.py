"""Time the kernels against what torch offers, and record rows: python bench/kernels.py [--quick] [--write].

Every case first passes a gate: the op against its reference, each peer against the op. Then all contenders of
a case are timed in turn, round after round, so that a busy moment hits them alike. One row per case and peer:

    share      bytes the op has to move / median time / copy bandwidth measured in the same run
    times      peer's median / the op's median: above 1 the op is faster

`eager` does the op's whole job in plain torch, padded rows (slot -1) included; `unpadded` is the shorter
chain for rows that are known to be live. All run under inference_mode, as predictions do.

On a CPU with one thread the clock is the process's own time, which does not run while a neighbour has the
core. On a GPU the times come from events round single calls with the second-level cache flushed, queued while
the GPU spins: what the host takes to launch counts only where a call waits for the GPU itself.
"""

import argparse
import platform
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from statistics import quantiles

import expected
import torch
import triton
from kernel_cases import Call, Case, cases
from rows import commit, processor
from tasks import Task

from gfnet_fast.tables import merge_rows

RESULTS = Path(__file__).parent / "results" / "kernels.csv"
KEY = ("op", "size", "dtype", "device", "peer")
FIELDS = (
    *KEY, "p25_us", "p50_us", "p75_us", "bytes", "share", "times",
    "machine", "torch", "triton", "python", "commit",
)  # fmt: skip
SECONDS = 0.1  # of timing a contender, where minutes count
SPIN = 2_000_000  # cycles, about a millisecond: longer than a call's launches take the host


def time_calls(calls: dict[str, Call], device: str, seconds: float) -> dict[str, tuple[float, float, float]]:
    """Quartiles in microseconds for each contender, timed in turn."""
    once = time_on_gpu if device == "cuda" else time_on_cpu
    bursts = {name: max(1, int(2e3 / min(once(call, 1) for _ in range(3)))) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    until = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < until or min(map(len, samples.values())) < 7:
        for name, call in calls.items():
            samples[name].append(once(call, bursts[name]))
    return {name: tuple(quantiles(values, n=4)) for name, values in samples.items()}  # type: ignore[misc]


def time_on_cpu(call: Call, burst: int) -> float:
    """Microseconds a call, over a burst of some two milliseconds after a call that warms the caches."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    call()
    start = clock()
    for _ in range(burst):
        call()
    return (clock() - start) * 1e6 / burst


def time_on_gpu(call: Call, burst: int) -> float:
    """Microseconds of one call between two events, the second-level cache overwritten before."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.empty(1 << 28, dtype=torch.uint8, device="cuda").zero_()
    torch.cuda._sleep(SPIN)
    first.record()
    call()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) * 1e3


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of a large copy."""
    size = 1 << (30 if device == "cuda" else 27)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    middle = time_calls({"copy": lambda: target.copy_(source)}, device, 0.5)["copy"][1]
    return 2 * size / middle * 1e6


def row_of(
    case: Case, peer: str, timed: dict[str, tuple[float, float, float]], bandwidth: float
) -> dict[str, object]:
    """One contender's row, without what is the same for the whole run."""
    low, middle, high = timed[peer]
    return {
        "op": case.op,
        "size": case.size,
        "dtype": str(case.dtype).removeprefix("torch."),
        "peer": peer,
        "p25_us": f"{low:.1f}",
        "p50_us": f"{middle:.1f}",
        "p75_us": f"{high:.1f}",
        "bytes": case.moved,
        "share": f"{case.moved / middle * 1e6 / bandwidth:.3f}",
        "times": f"{middle / timed['ours'][1]:.2f}",
    }


def tasks(options: argparse.Namespace) -> list[Task]:
    """All cases as one task; counted on the device that computes nothing."""
    own = argparse.Namespace(
        device=options.device, quick=options.tiny, compiled=False, only="", seconds=SECONDS,
        results=options.out / "kernels.csv",
    )  # fmt: skip
    counted = list(cases("meta", False, False))
    seconds = expected.kernels(len(counted), sum(1 + len(case.peers) for case in counted), SECONDS)
    return [Task("kernels", partial(measure, own), seconds)]


@torch.inference_mode()
def measure(options: argparse.Namespace) -> None:
    """Gate and time every case, and merge its rows into `results` where that is a path.

    A case that fails is said and the others go on; RuntimeError in the end.
    """
    torch.manual_seed(0)
    seconds = min(options.seconds, 0.1) if options.quick else options.seconds
    bandwidth = copy_bandwidth(options.device)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    print(f"{name}, {processor()}: copies {bandwidth / 1e9:.1f} GB/s", file=sys.stderr)
    about = {
        "device": name, "machine": processor(), "torch": torch.__version__, "triton": triton.__version__,
        "python": platform.python_version(), "commit": commit(),
    }  # fmt: skip
    failed = list[str]()
    for case in cases(options.device, options.quick, options.compiled):
        if not case.op.startswith(options.only):
            continue
        try:
            case.gate()
            timed = time_calls({"ours": case.ours, **case.peers}, options.device, seconds)
        except Exception:
            failed.append(f"{case.op} {case.size}")
            print(f"{failed[-1]}:\n{traceback.format_exc()}", flush=True)
            continue
        found = [row_of(case, peer, timed, bandwidth) for peer in timed]
        line = "{op:16} {size:26} {dtype:9} {peer:15} {p50_us:>10} us  share {share}  x {times}"
        for row in found:
            print(line.format(**row), flush=True)
        if options.results:
            merge_rows(options.results, KEY, FIELDS, [row | about for row in found])
    if failed:
        raise RuntimeError(
            f"expected every case to pass its gate and be timed, got {len(failed)} that failed: "
            f"{', '.join(failed)}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    parser.add_argument(
        "--quick", action="store_true", help="one small size an op, a fraction of a second each"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave out the torch.compile peers")
    parser.add_argument("--only", default="", help="ops whose name starts so")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing per contender")
    parser.add_argument("--write", action="store_true", help="merge the rows into the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the table that --write merges into")
    options = parser.parse_args()
    options.compiled = not (options.no_compile or options.quick)
    options.results = options.results if options.write else None
    measure(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

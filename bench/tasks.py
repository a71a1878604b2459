"""Several tasks in one process, so that what they share is made once, and none of them stops another.

A task that raises is said with its whole traceback. One that takes more than its time ends the process, with
what every thread was doing; so does one that loses the GPU (after an illegal address nothing works in that
process). With GFNET_BEGUN naming a file, each task is noted there when it begins and END when all have had
their turn: who runs the same command again while END is missing gets the tasks that are left.
"""

import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

END = "END"
RUNNING = "was running when the process ended"
WAITING = "has not run"
SPARE = 20.0  # seconds that a task may take beyond twice what is expected: a busy moment


@dataclass(frozen=True)
class Task:
    """`seconds`: what it is expected to take on a GPU; it may take twice as many and :data:`SPARE`."""

    name: str
    run: Callable[[], object]
    seconds: float


class Begun:
    """The names in the file that GFNET_BEGUN names; nothing is kept without one."""

    def __init__(self) -> None:
        named = os.environ.get("GFNET_BEGUN")
        self.path = Path(named) if named else None
        self.names = self.path.read_text().splitlines() if self.path and self.path.exists() else []

    def add(self, name: str) -> None:
        if self.path:
            with self.path.open("a") as file:
                file.write(f"{name}\n")


def patience() -> float:
    """How many times as long as elsewhere a task or a test may take here: GFNET_PATIENCE."""
    return float(os.environ.get("GFNET_PATIENCE", "1"))


def run_tasks(tasks: Sequence[Task]) -> int:
    """Run them in their order; 1 where one failed, otherwise 0."""
    begun, failed = Begun(), list[str]()
    for task in tasks:
        if task.name in begun.names:
            continue
        begun.add(task.name)
        most = patience() * (2 * task.seconds + SPARE)
        faulthandler.dump_traceback_later(most, exit=True, file=2)
        begin = time.perf_counter()
        try:
            task.run()
        except Exception:
            print(traceback.format_exc(), flush=True)
            failed.append(task.name)
        finally:
            faulthandler.cancel_dump_traceback_later()
        taken, word = time.perf_counter() - begin, "failed" if task.name in failed[-1:] else "ok"
        print(f"== {task.name}: {word}, {taken:.1f} s, expected {task.seconds:.1f}", flush=True)
        if word == "failed" and lost():
            print("the GPU is lost to this process; the tasks that are left need another one", flush=True)
            return 1
        forget()
    begun.add(END)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def lost() -> bool:
    """Whether nothing works on the GPU any more in this process."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except RuntimeError:
        return True
    return False


def forget() -> None:
    """Give the memory of a task back to the GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        import gc

        gc.collect()
        torch.cuda.empty_cache()

"""Kernels that misbehave, for worker processes to import: what a configuration says is done, whatever it does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from attncast.autotune.refine import Measurement
from attncast.autotune.result import Knobs


def prepare() -> Callable[[Knobs], Measurement]:
    """A kernel whose times grow with the distance of BLOCK_M from 64."""

    def measure(config: Knobs) -> Measurement:
        print("noise on standard output")
        match config["does"]:
            case "crash":
                os._exit(3)
            case "abort":
                os.abort()
            case "hang":
                time.sleep(600)
            case "raise":
                raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
            case "wrong":
                return Measurement(None, None, False, "returned wrong numbers")
        time_s = 1e-3 * (1 + abs(int(config["BLOCK_M"]) - 64) / 64)
        return Measurement(time_s, 1e-6, True)

    return measure


def prepare_never() -> Callable[[Knobs], Measurement]:
    """A kernel that cannot be prepared."""
    raise RuntimeError("no GPU is here")


def prepare_with_child() -> Callable[[str], int]:
    """A function that leaves a process of its own behind."""

    def start(path: str) -> int:
        child = os.fork()
        if child == 0:
            time.sleep(600)
        Path(path).write_text(str(child))
        time.sleep(600)
        return 0

    return start


def slow_square(number: int) -> int:
    """A task that takes long enough for its worker to be killed meanwhile."""
    time.sleep(0.15)
    return number * number


def die_once(path: str, number: int) -> int:
    """Kill the worker on the first call for ``path``; answer on the second."""
    try:
        with open(path, "x"):  # noqa: PTH123
            pass
    except FileExistsError:
        return number
    os._exit(9)


def die(number: int) -> int:
    """Kill the worker each time."""
    os._exit(number)


def pid(_: int) -> int:
    """The worker's process id."""
    time.sleep(0.05)
    return os.getpid()

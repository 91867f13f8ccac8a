"""The process that runs cases: one JSON line asks, one JSON line answers, until its input ends.

A case that crashes the process, hangs, or leaves the GPU unusable costs only itself: see ``pool``.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, Any

from ...errors import InputError
from ...hwmodels import load_gpu
from ..measured import MeasuredRun
from ..plausible import plausible
from .case import Case
from .device import CudaDevice, Device, Timing, TryingDevice
from .libraries import LIBRARIES

REASON_LENGTH = 500
DATE = "%Y-%m-%d"
Answer = dict[str, Any]


def run_case(case: Case, device: Device, suite: str, sample_seconds: float, *, prepare_only: bool = False) -> Answer:
    """Run one case: check it, time it, and return ``{"run": ...}``, ``{"tried": ...}`` or ``{"problem": ...}``.

    Args:
        prepare_only: call it once and nothing else, so that what is compiled lies in the caches.
    """
    try:
        from . import calls, check

        given = calls.tensors(case, device.torch_device)
        prepared = calls.prepare(case, given)
        out = prepared.call()
        device.synchronize()
        if prepare_only:
            return {"prepared": True}
        error = check.check_output(case, given, prepared.restore(out))
        del out
        timing = device.time(prepared.call, warm=case.warm, budget_s=sample_seconds)
        if timing is None:
            return {"tried": True, "max_error": error}
        return _result(case, prepared, timing, device.name, suite, error)
    except Exception as problem:
        return {"problem": _kind(problem), "reason": f"{type(problem).__name__}: {problem}"[:REASON_LENGTH]}


def _kind(problem: Exception) -> str:
    names = {kind.__name__ for kind in type(problem).__mro__}
    if "WrongResult" in names:
        return "wrong result"
    if names & {"OutOfMemoryError", "OutOfResources"}:
        return "out of memory" if "OutOfMemoryError" in names else "does not fit"
    return "cannot run" if isinstance(problem, InputError) else "failed"


def _result(case: Case, prepared: Any, timing: Timing, name: str, suite: str, error: float) -> Answer:
    gpu = load_gpu(name).key
    clock = next(
        (
            timing.readings[moment].clock_hz
            for moment in ("during", "after", "before")
            if moment in timing.readings and timing.readings[moment].clock_hz is not None
        ),
        None,
    )
    run = MeasuredRun(
        id=f"{gpu}/{case.id}",
        gpu=gpu,
        kernel=LIBRARIES[case.kernel].profile,
        software=software(case.kernel),
        batch=case.batch,
        heads=case.heads,
        heads_kv=case.heads_kv,
        grid=case.grid,
        cached=case.cached,
        head_dim=case.head_dim,
        dtype=case.dtype,
        pattern=case.pattern,
        q_tile=prepared.q_tile,
        kv_tile=prepared.kv_tile,
        measures=case.measures,
        warm=case.warm,
        graph=False,
        time_s=timing.median_s,
        method=timing.method,
        source=f"attncast measure {suite}, {datetime.datetime.now(datetime.UTC).strftime(DATE)}",
        config=prepared.config,
        clock_hz=clock,
        spread_s=timing.spread_s,
        samples=len(timing.samples_s),
        calls_before=timing.calls_before,
    )
    _, impossible = plausible([run])
    if impossible:
        return {"problem": "implausible", "reason": impossible[0][1]}
    return {
        "run": asdict(run),
        "max_error": error,
        "readings": {moment: reading.to_dict() for moment, reading in timing.readings.items()},
        "samples_s": list(timing.samples_s),
    }


def software(kernel: str) -> str:
    """What runs, with versions: "sdpa-cudnn: torch 2.11.0, CUDA 12.8, cuDNN 9.10.2"."""
    import torch

    from ... import __version__

    parts = [f"attncast {__version__}"] if kernel.startswith("attncast") else []
    parts.append(f"torch {torch.__version__}")
    for package in LIBRARIES[kernel].packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{package} {importlib.metadata.version(package)}")
    if torch.version.cuda:
        parts.append(f"CUDA {torch.version.cuda}")
    cudnn = torch.backends.cudnn.version() if kernel == "sdpa-cudnn" else None  # type: ignore[no-untyped-call]
    if cudnn:
        parts.append(f"cuDNN {cudnn}")
    return f"{kernel}: {', '.join(parts)}"


def serve(make_device: Callable[[], Device], asked: IO[str], answers: IO[str], run: Callable[..., Answer]) -> int:
    """Answer questions until there are no more; returns an exit status.

    The first line out is what the device is: ``{"device": name}``, or ``{"error": sentence}``. An answer with
    ``"lost": true`` is the last one.
    """

    def say(answer: Answer) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        device = make_device()
    except InputError as problem:
        say({"error": str(problem)})
        return 2
    say({"device": device.name})
    for line in asked:
        question = json.loads(line)
        case = Case.from_dict(question["case"])
        answer = run(case, device, question["suite"], question["sample_seconds"], prepare_only=question["prepare"])
        lost = "problem" in answer and not _usable(device)
        if not lost:
            device.free()
        say({**answer, "lost": True} if lost else answer)
        if lost:
            return 1
    return 0


def _usable(device: Device) -> bool:
    """False after an illegal access: every later call of this process would raise it again."""
    try:
        device.synchronize()
    except Exception:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """Serve on standard input and output; what libraries print goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m attncast.validation.measure.worker", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, nothing timed")
    chosen = parser.parse_args(arguments)
    # Before torch and triton are imported: whoever prints, prints elsewhere.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    device: Callable[[], Device] = TryingDevice if chosen.dry_run else CudaDevice
    with contextlib.suppress(BrokenPipeError):  # the campaign is gone
        return serve(device, sys.stdin, answers, run_case)
    return 0


if __name__ == "__main__":
    sys.exit(main())

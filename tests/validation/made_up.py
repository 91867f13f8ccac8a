"""Runs whose times follow from known constants, with a little noise: what a fit must find again."""

from __future__ import annotations

import dataclasses

import numpy as np

from attncast.hwmodels import load_gpu
from attncast.simulator.calibration import Constants, use_of
from attncast.validation.measured import MeasuredRun
from attncast.validation.problem import problem_of

TRUTH = {
    "overlap": 0.8,
    "round_trips": 8.0,
    "dram_efficiency": 0.7,
    "rotation_efficiency": 0.4,
    "call_s": 9e-6,
    "key_s": 1e-9,
}


def made_up(count=80, gpu="h100", kernel="fa3", software="VLLM 1.0 fa3", decode=False, window=False, seed=0, **truth):
    """``count`` calls of one use in random shapes, timed by ``TRUTH`` or what replaces it, with 3% of noise."""
    rng = np.random.default_rng(seed)
    runs = []
    for index in range(count):
        heads_kv = int(rng.choice([1, 2, 4, 8]))
        tokens = int(rng.choice([256, 512, 1024, 2048, 4096, 8192]))
        runs.append(
            MeasuredRun(
                id=f"{gpu}-{kernel}-{index}",
                gpu=gpu,
                kernel=kernel,
                software=software,
                batch=int(rng.choice([1, 2, 4, 8, 16, 32])),
                heads=heads_kv * int(rng.choice([1, 4, 8])),
                heads_kv=heads_kv,
                grid="1" if decode else str(tokens),
                cached=tokens - 1 if decode else 0,
                head_dim=int(rng.choice([64, 128])),
                dtype="bf16",
                pattern="window left=127 right=0" if window else "causal",
                q_tile="",
                kv_tile="",
                measures="call+append",
                warm=True,
                graph=True,
                time_s=1.0,
                method="made up",
                source="made up",
            )
        )
    times_s = problem_of(runs).seconds({**TRUTH, **truth}) * np.exp(rng.normal(0.0, 0.03, count))
    return [dataclasses.replace(run, time_s=float(time_s)) for run, time_s in zip(runs, times_s, strict=True)]


def use(run):
    """The use of a run."""
    return use_of(load_gpu(run.gpu), run.kernel, run.workload, run.conditions.engine)


def constants(**values):
    """Constants as a file would hold them."""
    return Constants({**TRUTH, **values}, 0.2, 100, 0.05, "made up", "2026-11-21", "a test")

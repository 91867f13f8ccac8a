"""How sure a ranking is of its first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..simulator.tiles import Floats

#: Standard deviation of log(forecast / measured) among configurations of one shape. Published measurements say so in two
#: ways (python -m attncast.autotune.judge): within seven tables errors scatter by 14%, and the winners of 26 searches are
#: likeliest to have won if they scatter by 17% (12% to 23% at 95% confidence; 10% from 512 tokens on; A100 alone 25%, H100 6%).
#: Nothing of our own was measured yet.
SPREAD = 0.15
#: Steps of a knob (a doubling of a tile, a pipeline stage) over which errors stay alike: a correlation of exp(-1/2) at one.
REACH_STEPS = 1.0
WITHIN = 0.05
DRAWS = 2000


def sure(time_s: Floats, codes: NDArray[np.float64]) -> float:
    """Chance that the first configuration is within 5% of the best (0 to 1).

    Args:
        time_s: forecasts, of the first configuration first.
        codes: coordinates of the knobs, shape (configurations, coordinates).

    Errors of the forecasts are drawn from a normal distribution with standard deviation SPREAD, alike for configurations
    whose knobs are alike: their correlation falls with the squared distance of the codes. What the ranking has not in it
    (configurations beyond those given, that are slower) is taken as never the best.
    """
    times = np.log(time_s[: codes.shape[0]]) + SPREAD * draws(codes, DRAWS)
    return float((times[:, 0] <= times.min(axis=1) + np.log1p(WITHIN)).mean())


def draws(codes: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Errors of configurations, drawn so many times: shape (count, configurations), standard deviation 1, correlated."""
    square = (codes**2).sum(axis=1)
    distance = np.maximum(0.0, square[:, None] + square - 2.0 * codes @ codes.T)
    # What is added to the diagonal keeps the root real where knobs are the same; errors of 0.1% of theirs say nothing.
    root = np.linalg.cholesky(np.exp(-0.5 * distance / REACH_STEPS**2) + 1e-6 * np.eye(codes.shape[0]))
    return np.asarray(np.random.default_rng(0).standard_normal((count, codes.shape[0])) @ root.T)

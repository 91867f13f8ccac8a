"""What measurements of some configurations say about the others: a Gaussian process on the residuals of the forecast.

The residual of a configuration is log(measured / predicted). It is taken as a sum of four parts: one that all
configurations share, one in proportion to the forecast, one that varies smoothly over the knobs, and each one's own::

    residual(x) = offset + slope * predicted log time + smooth(x) + own(x)
    measured log time = predicted log time + residual + noise

Each is normal with mean 0. The offset is wide, so that a common error of the forecast costs one measurement. The slope is
there because errors of a forecast are part of its spread: what it calls fastest is so partly by error, and the rest nearer
to it than it says. The standard deviations of the last two and the length of the smooth part are not known: every choice on
a grid counts by how likely it makes what was measured (Rasmussen and Williams, Gaussian Processes for Machine Learning,
2006, chapters 2 and 5). Taking the likeliest alone, three measurements that happen to agree would end the search. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Standard deviation of the offset: a forecast may be wrong by a factor of e throughout.
OFFSET: Final = 1.0
#: Standard deviation of the slope: the forecast may stretch or compress differences. Errors alone stretch them.
SLOPE: Final = 0.5
_LENGTHS: Final = (0.5, 1.0, 2.0, 4.0)  # of the smooth part, in standard deviations of a knob over the space
_LEVELS: Final = 0.005 * 2.0 ** np.arange(8)  # standard deviations of the smooth part, and of each one's own
_LEAST_WEIGHT: Final = 0.05  # of the weight of the likeliest; what is less likely is left out
#: How far the error of the forecast may be from what its interval says, as a standard deviation of its logarithm.
_PRIOR_WIDTH: Final = math.log(2.0)


@dataclass(frozen=True)
class Belief:
    """What is believed of the log time of each of n configurations: a mixture of normals.

    Attributes:
        weight: of each part of the mixture, (parts,), adding up to 1.
        means, deviations: of the log times in each part, (parts, n).
    """

    weight: Floats
    means: Floats
    deviations: Floats

    @property
    def mean(self) -> Floats:
        """Mean of each log time, (n,)."""
        return np.asarray(self.weight @ self.means)

    @property
    def deviation(self) -> Floats:
        """Standard deviation of each log time, (n,)."""
        return np.sqrt(np.maximum(self.weight @ (self.deviations**2 + self.means**2) - self.mean**2, 0.0))

    def improvement(self, best: float) -> Floats:
        """Expected improvement of each over a log time, (n,): E max(0, best - time)."""
        z = (best - self.means) / self.deviations
        below = 0.5 * _erfc(-z / math.sqrt(2.0))
        gains = self.deviations * (z * below + np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi))
        return np.asarray(self.weight @ gains)

    def fastest(self, places: Sequence[int], draws: int) -> Floats:
        """Draws of the least log time among some configurations, as if independent of each other; always the same draws."""
        random = np.random.default_rng(0)
        found = []
        for weight, means, deviations in zip(self.weight, self.means, self.deviations, strict=True):
            mean, deviation = means[places], deviations[places]
            # One that would have to be four deviations faster than believed is never the fastest.
            near = mean - 4 * deviation <= (mean + deviation).min()
            table = random.standard_normal((math.ceil(weight * draws), int(near.sum())))
            found.append((mean[near] + deviation[near] * table).min(axis=1))
        return np.concatenate(found)


def encoded(configs: Sequence[Mapping[str, int | bool | str]]) -> Floats:
    """Knobs as coordinates, (configurations, columns), each column with mean 0 and standard deviation 1 over the space.

    Numbers by their logarithm (tile sizes, warps and stages double), switches as 0 and 1, tile shapes ("2x8x8") axis by
    axis, other words as one column for each. A knob that does not vary has no column.
    """
    columns: list[Floats] = []
    for name in sorted({name for config in configs for name in config}):
        values = [config.get(name) for config in configs]
        if any(isinstance(value, str) for value in values):
            columns += _words([str(value) for value in values])
        else:
            columns.append(np.log2(1.0 + np.array([float(value or 0) for value in values])))
    varying = [column for column in columns if np.ptp(column) > 0]
    if not varying:
        return np.zeros((len(configs), 1))
    table = np.stack(varying, axis=1)
    return np.asarray((table - table.mean(axis=0)) / table.std(axis=0))


def _words(values: Sequence[str]) -> list[Floats]:
    shapes = [value.split("x") for value in values]
    if len({len(shape) for shape in shapes}) == 1 and all(part.isdecimal() for shape in shapes for part in shape):
        return [np.log2(1.0 + np.array([float(shape[axis]) for shape in shapes])) for axis in range(len(shapes[0]))]
    return [np.array([float(value == word) for value in values]) for word in sorted(set(values))]


def believe(points: Floats, predicted: Floats, measured: Mapping[int, float], noise: float, deviation: float) -> Belief:
    """Fold measurements into the forecast.

    Args:
        points: (n, columns), see ``encoded``. predicted: log seconds, (n,).
        measured: log seconds of some of the n. noise: standard deviation of their logarithms.
        deviation: that of the forecast's logarithm, from its interval; what is believed before anything is measured.
    """
    if not measured:
        wide = np.full((1, predicted.size), math.hypot(OFFSET, deviation))
        return Belief(np.ones(1), predicted[None], wide)
    at = np.array(sorted(measured))
    residual = np.array([measured[i] for i in at]) - predicted[at]
    centred = predicted - predicted.mean()
    choices = _choices(points[at], centred[at], residual, noise, deviation)
    parts = [_posterior(points, centred, at, residual, noise, *choice) for _, *choice in choices]
    weight = np.array([weight for weight, *_ in choices])
    return Belief(
        weight / weight.sum(),
        predicted + np.stack([mean for mean, _ in parts]),
        np.stack([deviation for _, deviation in parts]),
    )


def _posterior(
    points: Floats, centred: Floats, at: NDArray[np.int64], residual: Floats, noise: float, smooth: float, own: float,
    length: float,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Mean and standard deviation of every residual, (n,), given some of them."""
    shared = OFFSET**2 + smooth**2 * _correlation(points[at], points, length)  # (measured, n)
    shared = shared + SLOPE**2 * np.outer(centred[at], centred)
    cross = shared.copy()
    cross[np.arange(at.size), at] += own**2
    lower = np.linalg.cholesky(shared[:, at] + (own**2 + noise**2) * np.eye(at.size))
    weights = np.linalg.solve(lower, cross)
    variance = OFFSET**2 + SLOPE**2 * centred**2 + smooth**2 + own**2 - (weights**2).sum(axis=0)
    return weights.T @ np.linalg.solve(lower, residual), np.sqrt(np.maximum(variance, 1e-10))


def _correlation(a: Floats, b: Floats, length: float) -> Floats:
    squares = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=-1)
    return np.asarray(np.exp(-0.5 * squares / length**2))


def _choices(
    points: Floats, centred: Floats, residual: Floats, noise: float, deviation: float
) -> list[tuple[float, float, float, float]]:
    """Weights, standard deviations of the smooth part and of each one's own, and lengths that explain ``residual``.

    For one length the correlations are decomposed once; in their eigenbasis the covariance of every pair of standard
    deviations is diagonal but for offset and slope, which the matrix determinant lemma and Woodbury's identity add.
    """
    smooth, own = (table[..., None] ** 2 for table in np.meshgrid(_LEVELS, _LEVELS, indexing="ij"))
    prior = -0.5 * (np.log(np.sqrt(smooth + own)[..., 0] / deviation) / _PRIOR_WIDTH) ** 2
    tables = []
    for length in _LENGTHS:
        values, vectors = np.linalg.eigh(_correlation(points, points, length))
        y, trends = vectors.T @ residual, vectors.T @ np.stack([np.ones_like(centred), centred], axis=1)
        diagonal = smooth * np.maximum(values, 0.0) + own + noise**2  # (smooth, own, measured)
        towards = (trends * y[:, None] / diagonal[..., None]).sum(axis=-2)
        among = np.diag([OFFSET**-2, SLOPE**-2]) + np.einsum("ni,nj,son->soij", trends, trends, 1.0 / diagonal)
        fit = (y**2 / diagonal).sum(axis=-1) - (towards * np.linalg.solve(among, towards[..., None])[..., 0]).sum(
            axis=-1
        )
        tables.append(prior - 0.5 * (fit + np.log(diagonal).sum(axis=-1) + np.log(np.linalg.det(among))))
    likelihood = np.stack(tables)
    weight = np.exp(likelihood - likelihood.max())
    places = np.argwhere(weight >= _LEAST_WEIGHT)
    return [(float(weight[k, i, j]), float(_LEVELS[i]), float(_LEVELS[j]), _LENGTHS[k]) for k, i, j in places.tolist()]


def _erfc(x: Floats) -> Floats:
    return np.asarray(np.vectorize(math.erfc, otypes=[np.float64])(x))

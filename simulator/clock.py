"""SM clock of a call: the stated boost clock while the call is short, then what the power limit leaves of it.

A tensor core draws power with its rate of FLOPs and with the square of the clock (voltage follows the clock). A GPU's
``sustained_clock_fraction`` is what matrix products, which keep tensor cores busy all the time, hold of ``clock_hz`` at the
power limit. A kernel that keeps them busy for a share u of its cycles draws as much at that fraction over the square root of
u. The cube in place of the square, with a factor before it, fits no better.
"""

from __future__ import annotations

import numpy as np

from ..hwmodels import GPU
from .tiles import Floats

# Seconds of one call before the power limit lowers the clock, by ``python -m attncast.validation.clock``: fitted to how the
# rate of dense and causal runs falls with their length, none of them NATTEN's. Benchmarks repeat a call some ten times, with
# pauses that their tables do not tell; the constant stands for such loops too.
FREE_S = 0.04


def highest_hz(gpu: GPU, locked_hz: Floats) -> Floats:
    """The clock without a power limit: that of the stated peak, or ``locked_hz`` where it is lower (inf: not locked)."""
    return np.minimum(gpu.clock_hz, locked_hz)


def held_hz(gpu: GPU, highest_hz: Floats, cycles: Floats, product_cycles: Floats, free_s: float = FREE_S) -> Floats:
    """Mean SM clock of calls under the power limit; arrays of one value for each call broadcast.

    Args:
        highest_hz: the clock without that limit. cycles: SM cycles that a call takes, above 0.
        product_cycles: cycles in which its FLOPs would keep every tensor core of the GPU busy, ``cycles`` at most.
        free_s: seconds before the limit acts.

    The time ``cycles / held_hz`` grows with ``cycles`` and with ``product_cycles``.
    """
    sustained_hz = gpu.clock_hz * gpu.sustained_clock_fraction
    slower = np.maximum(1.0, highest_hz / sustained_hz * np.sqrt(product_cycles / cycles))
    free = np.minimum(cycles, free_s * highest_hz)
    held: Floats = highest_hz * cycles / (free + (cycles - free) * slower)
    return held

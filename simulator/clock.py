"""SM clock of a call: the stated boost clock while the call is short, then what the power limit leaves of it.

Power goes with the square of the clock (voltage follows the clock). A GPU's ``sustained_clock_fraction`` is what matrix
products, which keep tensor cores busy all the time, hold of ``clock_hz`` at the power limit. Of the power at that point a
share ``REST_POWER`` is drawn whatever the tensor cores do (registers, exponentials, memory, leakage) and the rest in proportion
to the share u of its cycles in which a kernel keeps them busy. So a kernel holds that fraction over the square root of
``REST_POWER + (1 - REST_POWER) * u``. The cube in place of the square, with a factor before it, fits no better.
"""

from __future__ import annotations

import numpy as np

from ..hwmodels import GPU
from .tiles import Floats, between

# Seconds of work after a rest before the power limit lowers the clock, from how the rate of dense and causal runs falls with
# their length (most of them cudnn-frontend's, whose benchmark sleeps ten times a call's length after each; none NATTEN's);
# the same of one of a serving engine's calls, which follow one another without a pause (aiconfigurator replays a CUDA graph of
# many); and the share of power that tensor cores have no part in. All three by ``python -m attncast.validation.clock
# --serving``. Without ``--serving`` it shows that the first is told badly: GPUs disagree (H200 asks for 3 ms, GB200 for 200),
# and its 80% interval is 40 to 200 ms.
FREE_S = 0.2
SERVING_FREE_S = 0.0005
REST_POWER = 0.5


def highest_hz(gpu: GPU, locked_hz: Floats) -> Floats:
    """The clock without a power limit: that of the stated peak, or ``locked_hz`` where it is lower (inf: not locked)."""
    return np.minimum(gpu.clock_hz, locked_hz)


def held_hz(
    gpu: GPU,
    highest_hz: Floats,
    cycles: Floats,
    product_cycles: Floats,
    free_s: Floats | float = FREE_S,
    rest_power: float = REST_POWER,
    calls_before: Floats | float = 0.0,
) -> Floats:
    """Mean SM clock of calls under the power limit; arrays of one value for each call broadcast.

    Args:
        highest_hz: the clock without that limit. cycles: SM cycles that a call takes, above 0.
        product_cycles: cycles in which its FLOPs would keep every tensor core of the GPU busy, ``cycles`` at most.
        free_s: seconds of work without a rest before the limit acts. rest_power: share of the power at the limit that tensor
            cores do not draw. calls_before: calls like it that ran just before it without a rest, and used those seconds up.

    The time ``cycles / held_hz`` grows with ``cycles`` and with ``product_cycles``.
    """
    sustained_hz = gpu.clock_hz * gpu.sustained_clock_fraction
    power = rest_power + (1.0 - rest_power) * product_cycles / cycles
    slower = np.maximum(1.0, highest_hz / sustained_hz * np.sqrt(power))
    free = between(free_s * highest_hz - calls_before * cycles, 0.0, cycles)
    held: Floats = highest_hz * cycles / (free + (cycles - free) * slower)
    return held

"""From a binding and a problem to time, traffic, energy and utilisation."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from ...errors import InputError, unknown
from ...hwmodels.accelerator import Accelerator
from .binding import Binding, load_binding
from .dataflow import Movement, phases, stream
from .matmul import matmul_traffic
from .rows import rows
from .work import Work

_DATAFLOWS: Final[Mapping[str, Callable[[Work], Movement]]] = {"stream": stream, "rows": rows, "phases": phases}
_PJ: Final = 1e12


@dataclass(frozen=True)
class Transformer:
    """The sizes of a transformer layer: width D, heads H of E (queries, keys) and F (values), feed-forward width S,
    batch of B sequences."""

    name: str
    D: int
    E: int
    F: int
    H: int
    S: int
    B: int


@dataclass(frozen=True)
class AcceleratorForecast:
    """What a run costs. Utilisation is the share of the time in which PEs of an array compute.

    ``mapping`` says in words what stays on chip.
    """

    latency_s: float
    traffic_bytes: float
    energy_pj: float
    util_2d: float
    util_1d: float
    mapping: str = ""

    def to_dict(self) -> dict[str, float]:
        """The five numbers, by name."""
        return {
            "latency_s": self.latency_s,
            "traffic_bytes": self.traffic_bytes,
            "energy_pj": self.energy_pj,
            "util_2d": self.util_2d,
            "util_1d": self.util_1d,
        }


def transformer_names() -> list[str]:
    """The transformers that come with attncast, sorted."""
    return sorted(_transformers())


def load_transformer(name: str) -> Transformer:
    """The transformer of this name, case aside. InputError, with what is known, for any other."""
    if name.lower() not in _transformers():
        raise unknown("model", name, _transformers())
    return _transformers()[name.lower()]


@cache
def _transformers() -> dict[str, Transformer]:
    text = (files(__package__) / "transformers.toml").read_text(encoding="utf-8")
    return {name: Transformer(**fields) for name, fields in tomllib.loads(text).items()}


def attention(binding: Binding | str, model: Transformer | str, sequence: int) -> AcceleratorForecast:
    """Attention of one layer: every head of every sequence, as many keys as queries.

    Args:
        binding: a binding, its name, or the path of its file.
        model: a transformer or its name.
        sequence: tokens of a sequence.

    Raises:
        InputError: an unknown name, an impossible length, or a problem that does not fit the buffer.
    """
    binding = load_binding(binding) if isinstance(binding, str) else binding
    model = load_transformer(model) if isinstance(model, str) else model
    _check(sequence)
    sizes = {"E": model.E, "F": model.F, binding.keys: sequence, binding.queries: sequence}
    return forecast(binding, sizes, model.B * model.H)


def forecast(binding: Binding, sizes: Mapping[str, int], heads: int = 1) -> AcceleratorForecast:
    """A cascade under its binding, for any rank sizes.

    Args:
        binding: the binding.
        sizes: elements per rank of its cascade.
        heads: times it runs: heads of all sequences.

    Raises:
        InputError: sizes that are missing or impossible, or a problem that does not fit the buffer.
    """
    work = Work(binding, sizes)
    hardware = binding.accelerator
    movement = _DATAFLOWS[binding.dataflow](work)
    seconds = sum(
        max(phase.cycles / hardware.clock_hz, phase.traffic / hardware.dram_bandwidth_bytes_s)
        for phase in movement.phases
    )
    traffic = sum(phase.traffic for phase in movement.phases)
    energy = work.op_energy_j() + _memory_j(hardware, traffic, movement.buffer_reads, movement.buffer_writes)
    cycles = seconds * hardware.clock_hz
    return AcceleratorForecast(
        latency_s=heads * seconds,
        traffic_bytes=heads * traffic,
        energy_pj=heads * energy * _PJ,
        util_2d=work.busy("2d") / cycles,
        util_1d=work.busy("1d") / cycles,
        mapping=movement.mapping,
    )


def linear_layers(hardware: Accelerator, model: Transformer | str, sequence: int) -> AcceleratorForecast:
    """The linear layers around attention: projections Q, K, V, Z and both layers of the feed-forward network.

    Each is a matrix product on the 2-D array from and to DRAM, one after the other; activation functions,
    normalisation and residuals are not counted, as FuseMax does not count them.

    Raises:
        InputError: an unknown model or an impossible length.
    """
    model = load_transformer(model) if isinstance(model, str) else model
    _check(sequence)
    tokens, inside = model.B * sequence, model.E * model.H
    values = model.F * model.H
    layers = [
        (model.D, inside), (model.D, inside), (model.D, values), (values, model.D), (model.D, model.S),
        (model.S, model.D),
    ]  # fmt: skip
    side = hardware.array_2d_rows
    seconds = busy = traffic = energy = 0.0
    for inner, columns in layers:
        macs = tokens * inner * columns
        compute = macs * hardware.op_cycles("2d", "mul_add") / hardware.pes("2d") / hardware.clock_hz
        moved = matmul_traffic(tokens, inner, columns, hardware.buffer_bytes, hardware.element_bytes, side)
        seconds += max(compute, moved / hardware.dram_bandwidth_bytes_s)
        busy += compute
        traffic += moved
        # Every tile of the output reads its rows of one operand and its columns of the other.
        reads = macs / hardware.array_2d_columns + macs / side
        writes = tokens * inner + inner * columns
        energy += macs * hardware.op_energy_j("mul_add") + _memory_j(hardware, moved, reads, writes)
    return AcceleratorForecast(seconds, traffic, energy * _PJ, busy / seconds, 0.0)


def _memory_j(hardware: Accelerator, traffic: float, reads: float, writes: float) -> float:
    """Energy of DRAM traffic in bytes and of elements read from and written to the buffer, joule."""
    row = hardware.buffer_row_bytes / hardware.element_bytes
    dram = traffic / hardware.dram_word_bytes * hardware.dram_access_j
    return dram + (reads * hardware.buffer_read_j + writes * hardware.buffer_write_j) / row


def _check(sequence: int) -> None:
    if not 1 <= sequence <= 2**31:
        raise InputError(f"sequence length {sequence} is impossible: expected 1 to {2**31} tokens")

"""Knobs: what can be set about a kernel. Each knows its values, its default, its neighbours and a code for a model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

from ..simulator.workload import parse_grid

Value = int | bool | str
Code = tuple[float, ...]


@dataclass(frozen=True)
class Knob(ABC):
    """One setting of a kernel.

    Attributes:
        name: as the kernel has it ("BLOCK_M"). values: those the hardware allows, in order. default: one of them.
    """

    name: str
    values: tuple[Value, ...]
    default: Value

    def __post_init__(self) -> None:
        if self.default not in self.values:
            raise ValueError(f"{self.name}: default {self.default!r} is not among {self.values}")

    @abstractmethod
    def encode(self, value: Value) -> Code:
        """Coordinates of a value for a model, in steps: neighbours are about 1 apart."""

    @abstractmethod
    def neighbours(self, value: Value) -> tuple[Value, ...]:
        """Values one step away, in order."""


@dataclass(frozen=True)
class Ordered(Knob):
    """A knob whose values lie on a line: its neighbours are the next values on either side."""

    def neighbours(self, value: Value) -> tuple[Value, ...]:
        """The next value on either side, where there is one."""
        at = self.values.index(value)
        return tuple(self.values[i] for i in (at - 1, at + 1) if 0 <= i < len(self.values))


@dataclass(frozen=True)
class Power(Ordered):
    """Sizes and counts, such as tile sizes, warps and splits: a doubling is one step."""

    def encode(self, value: Value) -> Code:
        """The logarithm to base 2."""
        return (math.log2(int(value)),)


@dataclass(frozen=True)
class Level(Ordered):
    """A small number or a switch, such as pipeline stages: the number itself is its code."""

    def encode(self, value: Value) -> Code:
        """The number; 0 and 1 for a switch."""
        return (float(value),)


@dataclass(frozen=True)
class Place(Ordered):
    """Values in an order that their size does not tell, such as register caps, where 0 is none: each is one step on."""

    def encode(self, value: Value) -> Code:
        """The place among the values."""
        return (float(self.values.index(value)),)


@dataclass(frozen=True)
class Category(Knob):
    """Words without an order, such as the order of tokens: every other value is a neighbour."""

    def encode(self, value: Value) -> Code:
        """One-hot, scaled so that two values are 1 apart."""
        return tuple(math.sqrt(0.5) * (value == other) for other in self.values)

    def neighbours(self, value: Value) -> tuple[Value, ...]:
        """All the others."""
        return tuple(other for other in self.values if other != value)


@dataclass(frozen=True)
class Shape(Knob):
    """Tile shapes, tokens per axis as text ("2x8x8"): a factor of 2 on an axis is a step.

    Neighbours move one factor of 2 from an axis to another, or double or halve one axis.
    """

    @cached_property
    def _codes(self) -> dict[Value, Code]:
        return {
            value: tuple(math.log2(length) for length in parse_grid(str(value), self.name)) for value in self.values
        }

    def encode(self, value: Value) -> Code:
        """The logarithm to base 2 of each axis."""
        return self._codes[value]

    def neighbours(self, value: Value) -> tuple[Value, ...]:
        """Shapes one factor of 2 away."""
        own = self.encode(value)
        found = []
        for other, code in self._codes.items():
            moved = [round(b - a, 9) for a, b in zip(own, code, strict=True) if a != b]
            if moved in ([1], [-1], [1, -1], [-1, 1]):
                found.append(other)
        return tuple(found)

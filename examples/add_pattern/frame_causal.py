"""Frame-causal attention: a token of a video attends all tokens of its own frame and of the frames before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..workload import Workload
from .engine import Rule
from .sequence import OnSequence, interval, pieces_of, positions
from .spec import parameter, whole


@dataclass(frozen=True)
class FrameCausal(OnSequence):
    """Blocks of one frame on the diagonal, and all that is below them."""

    name: ClassVar[str] = "frame-causal"
    about: ClassVar[str] = "tokens attend their own frame and all frames before it"
    source: ClassVar[str] = "CausVid, arXiv 2412.07772 (block-wise causal attention of autoregressive video models)"

    frame: int = parameter("tokens of a frame", whole(), 1560)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept: key < end of the query's frame."""
        ends = (positions(workload) // self.frame + 1) * self.frame
        return pieces_of(workload, interval(workload, 0, ends))

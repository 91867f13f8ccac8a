"""One case of a suite: a workload, a pattern and what runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from ...kernels.attention_spec import ForwardConfig
from ...simulator import Workload
from ...simulator.workload import parse_grid

BANDS: Final = ("dense", "causal", "window")
# The knobs of our kernel by the names of its constexprs, as rows and tuners write them.
KNOBS: Final = {
    "BLOCK_M": "block_m",
    "BLOCK_N": "block_n",
    "num_warps": "num_warps",
    "num_stages": "num_stages",
    "USE_TMA": "use_tma",
    "WARP_SPECIALIZE": "warp_specialize",
}


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        kernel: what runs it, a key of ``libraries.LIBRARIES``.
        batch, heads, heads_kv, grid, cached, head_dim, dtype, pattern: as in MeasuredRun.
        measures: "kernel", or "call": with what a user waits for besides, the token permutation.
        warm: the L2 holds what the call before left there.
        config: of our attention kernel, ``key=value`` words; empty for the default.
    """

    kernel: str
    batch: int
    heads: int
    heads_kv: int
    grid: str
    cached: int
    head_dim: int
    dtype: str
    pattern: str
    measures: str = "kernel"
    warm: bool = False
    config: str = ""

    @property
    def id(self) -> str:
        """Names the case, whatever suite it is in and wherever it stands there."""
        shape = f"b{self.batch} h{self.heads}:{self.heads_kv} i{self.grid} c{self.cached} d{self.head_dim} {self.dtype}"
        parts = (self.kernel, shape, self.pattern, self.measures, "warm" if self.warm else "cold", self.config)
        return "/".join(part for part in parts if part)

    @property
    def kind(self) -> str:
        """Kind of pattern: a band's name, "na", or "blocks" for all others, which run on lists of whole blocks."""
        word = self.pattern.split()[0]
        return word if word in (*BANDS, "na") else "blocks"

    @property
    def tokens(self) -> tuple[int, ...]:
        """The query token grid."""
        return parse_grid(self.grid)

    @property
    def workload(self) -> Workload:
        """The workload. Raises InputError when its parts do not fit together."""
        return Workload(
            self.tokens,
            self.heads,
            self.head_dim,
            batch=self.batch,
            heads_kv=self.heads_kv,
            cached=self.cached,
            dtype=self.dtype,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Case:
        """The case of ``to_dict``."""
        return Case(**{item.name: values[item.name] for item in fields(Case)})


def config_text(config: ForwardConfig) -> str:
    """Knobs as ``key=value`` words: "BLOCK_M=128 BLOCK_N=64 num_warps=8 num_stages=3 USE_TMA=0 WARP_SPECIALIZE=0"."""
    return " ".join(f"{key}={int(getattr(config, name))}" for key, name in KNOBS.items())


def read_config(text: str) -> ForwardConfig | None:
    """The knobs that ``config_text`` wrote; None for an empty text, the kernel's default."""
    if not text:
        return None
    values = dict(word.split("=") for word in text.split())
    knobs = {name: int(values[key]) for key, name in KNOBS.items()}
    flags = {name: bool(knobs.pop(name)) for name in ("use_tma", "warp_specialize")}
    return ForwardConfig(**knobs, **flags)  # type: ignore[arg-type]

"""What can run a case: our kernels and the libraries they are compared with. No import of any of them here."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Final

from .case import Case


@dataclass(frozen=True)
class Library:
    """One implementation.

    Attributes:
        profile: the kernel profile that forecasts it. modules: what must be installed besides torch.
        packages: distributions whose versions a row records, besides torch.
        kinds: kinds of patterns it takes (see Case.kind). decodes: whether it takes few queries over a cache.
        prefills: whether it takes as many queries as keys. batches: whether it takes more than one sequence.
        whole_call: times include the library's own permutation of tokens. compiles: its first call takes seconds.
    """

    profile: str
    modules: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("dense", "causal")
    decodes: bool = False
    prefills: bool = True
    batches: bool = True
    whole_call: bool = False
    compiles: bool = False

    def installed(self) -> bool:
        """Whether its modules can be found."""
        return all(importlib.util.find_spec(name) for name in self.modules)

    def takes(self, case: Case) -> bool:
        """Whether it can run the case at all."""
        few = case.cached > 0
        return (
            case.kind in self.kinds
            and (self.decodes if few else self.prefills)
            and (self.batches or case.batch == 1)
            and not (self.whole_call and case.kind == "na" and case.measures == "kernel")
            and (case.measures == "kernel" or (case.kind == "na" and (self.whole_call or case.kernel == "attncast")))
        )


_ALL: Final = ("dense", "causal", "window", "na", "blocks")
LIBRARIES: Final = {
    "attncast": Library("triton", ("triton",), ("triton",), _ALL, compiles=True),
    "attncast-decode": Library(
        "triton", ("triton",), ("triton",), ("causal", "window"), decodes=True, prefills=False, compiles=True
    ),
    "sdpa-flash": Library("fa2", decodes=True),
    "sdpa-cudnn": Library("cudnn", decodes=True),
    "flex": Library("flex", ("triton",), ("triton",), _ALL, decodes=True, compiles=True),
    "flash-attn": Library("fa2", ("flash_attn",), ("flash-attn",), ("dense", "causal", "window"), decodes=True),
    "flash-attn-3": Library("fa3", ("flash_attn_interface",), ("flash-attn-3",), ("dense", "causal", "window")),
    "natten": Library("natten", ("natten",), ("natten",), ("na",), whole_call=True),
    "flashinfer": Library(
        "flashinfer",
        ("flashinfer",),
        ("flashinfer-python",),
        ("dense", "causal", "window"),
        decodes=True,
        batches=False,
    ),
}

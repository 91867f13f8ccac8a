"""``decode`` compiled ahead of time: pages and windows, held against the work of a tile."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton")

from attncast.errors import InputError
from attncast.kernels.check import check
from attncast.kernels.space import KernelConfig

FAMILY = {"a100": "mma.sync", "b200": "tcgen05"}


def test_it_fits_and_does_the_work_of_a_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNCAST_CACHE_DIR", str(tmp_path))
    configs = [
        KernelConfig("decode", 128, "bf16", "paged", 16, 64, 4, 2),
        KernelConfig("decode", 64, "fp16", "window", 64, 64, 4, 2),
    ]
    for result in check(configs, list(FAMILY), workers=2):
        facts = result.facts
        assert result.fits, result.reason
        assert facts.spill_bytes == 0
        assert result.ctas_per_sm >= 2
        (loop,) = facts.loops
        assert loop.name == "keys"
        config = facts.config
        flop = sum(
            n * config.num_warps // mma.warps * mma.flop if mma.warps else n * mma.flop for mma, n in loop.mma.items()
        )
        assert flop == 4 * config.block_m * config.block_n * config.head_dim
        assert loop.exp is not None
        assert loop.exp >= loop.pairs
        # Sixteen rows, of one token and sixteen heads at most, are too few for wgmma and tcgen05.
        assert {mma.family for mma in loop.mma} == {"mma.sync" if config.block_m < 64 else FAMILY[result.gpu.key]}


def test_what_the_kernel_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="unknown pattern 'bits': expected one of causal, paged, window"):
        KernelConfig("decode", pattern="bits")
    with pytest.raises(InputError, match="no register cap"):
        KernelConfig("decode", pattern="paged", maxnreg=128)

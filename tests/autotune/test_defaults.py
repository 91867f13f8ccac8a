"""The command behind the packaged tuned files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attncast.autotune import defaults
from attncast.autotune.writers.serving import family_of
from attncast.kernels import tuned


def test_every_gpu_head_dim_and_family_is_there() -> None:
    found = {(gpu, workload.head_dim, family_of(pattern)) for gpu, workload, pattern in defaults.problems()}
    assert found == {(gpu, dim, family) for gpu in defaults.GPUS for dim in (64, 128) for family in tuned.FAMILIES}


def test_the_command_writes_what_the_kernels_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("attncast.autotune.tune")
    folder = tmp_path / "tuned"  # a user's own: of the packaged ones, specialised entries are passed over
    folder.mkdir()
    (folder / tuned.file_name("triton", tuned.load_gpu("l40s"), "bf16")).write_text("{}")
    monkeypatch.setattr(defaults, "PROBLEMS", (("causal", 4096), ("na window=4x8x8 stride=2x8x8", "8x16x16")))
    monkeypatch.setattr(sys, "argv", ["defaults", "--effort", "instant", "-o", str(folder)])
    defaults.main()
    assert len(list(folder.iterdir())) == len(defaults.GPUS)
    monkeypatch.setenv("ATTNCAST_CACHE_DIR", str(tmp_path))
    tuned.forget()
    try:
        for gpu in defaults.GPUS:
            for dim in defaults.HEAD_DIMS:
                for family in ("causal", "blocks"):
                    assert tuned.lookup(tuned.DEVICE_NAMES[gpu], "bf16", dim, family, 65536) is not None
    finally:
        tuned.forget()

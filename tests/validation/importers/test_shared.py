"""The collected table of serving engines, where it lies beside the checkout: every row is imported or accounted for."""

from __future__ import annotations

from collections import Counter

import pytest

from attncast.validation.importers import import_runs

from ...paths import SHARED

TABLE = SHARED / "data" / "attention_serving_measured.csv.gz"


@pytest.mark.skipif(not TABLE.is_file(), reason=f"the collected table {TABLE} is not here")
def test_the_whole_table_is_imported():
    result = import_runs("aiconfigurator", TABLE)
    assert len(result.runs) == 77_657
    assert result.no_run == {"attention over several chunks": 5}
    assert result.bad == Counter()
    # All of one engine's decode on A100; a version of its collector allocates a cache of keys alone, half the bytes.
    assert len(result.implausible) == 21
    (slow,) = [
        run for run, _ in result.implausible if run.gpu != "a100"
    ]  # 82 us, where each next larger call takes 14 to 18
    assert (slow.gpu, slow.kernel, slow.batch, slow.heads, slow.cached) == ("h100", "sglang-triton", 4, 4, 511)
    assert {(run.software, run.grid) for run, _ in result.implausible if run is not slow} == {
        ("TRTLLM 1.0.0 torch_flow", "1")
    }
    assert sum(result.undescribed.values()) == 123  # FA4 on H100
    assert {run.gpu for run in result.runs} == {"a100", "h100", "b200", "rtx-pro-6000"}

"""The benchmark's plumbing, without a GPU: rows, failures and the arithmetic of its rates."""

from __future__ import annotations

import json

from attncast.kernels import bench
from attncast.kernels.bench_case import CASES, Case, band_maps, work
from attncast.kernels.neighborhood import parse_pattern
from attncast.kernels.reference import band_mask


def test_dry_run_writes_a_row_per_implementation(tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    status = bench.main(["--dry-run", "--case", "window", "--json", "-o", str(output)])
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    assert [(r["implementation"], r["status"]) for r in rows] == [
        ("sdpa", "ok"), ("flex", "ok"), ("attncast", "ok")
    ]  # fmt: skip
    assert status == 0
    for row in rows:
        assert {
            "gpu",
            "torch",
            "triton",
            "method",
            "utc",
            "median_s",
            "p20_s",
            "p80_s",
            "samples",
        } <= row.keys()
    assert {"config", "max_error", "times_faster_than_sdpa", "times_faster_than_flex"} <= rows[-1].keys()


def test_a_case_that_does_not_end_becomes_a_row():
    rows = bench.run_child("dense", True, 1.0, 0.2)
    assert [(r["case"], r["status"], r["reason"]) for r in rows] == [("dense", "failed", "no end after 0 s")]
    assert "failed: no end" in bench.describe(rows[0])


def test_a_case_out_of_time_is_skipped(capsys):
    assert bench.main(["--dry-run", "--case", "dense", "--seconds", "1"]) == 1
    assert "skipped: 1 s are over" in capsys.readouterr().out


def test_names_are_the_cases():
    assert set(bench.NAMES) == set(CASES)


def test_work_counts_pairs_and_tiles():
    pairs = band_mask(512, 512, 100, 0)
    flops, tile_flops = work(Case((512,), "window left=100 right=0", heads=2, dim=64))
    assert flops == 4 * 2 * 64 * int(pairs.sum())
    cells = pairs.view(4, 128, 4, 128).transpose(1, 2).flatten(2)
    assert tile_flops == 4 * 2 * 64 * int(cells.any(-1).sum()) * 128**2
    live, full = band_maps(512, parse_pattern("window left=100 right=0", (512,)))
    assert (live == cells.any(-1)).all()
    assert (full == cells.all(-1)).all()
    assert work(Case((256,), "dense", heads=1, dim=64))[0] == 4 * 64 * 256**2
    # HunyuanVideo: every query has 18 x 24 x 24 keys, every Q tile visits 81 KV tiles, exactly those keys.
    assert work(CASES["hunyuan-na"]) == (4.0 * 24 * 128 * 115200 * 18 * 24 * 24,) * 2

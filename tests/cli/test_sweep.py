"""``attncast sweep``: tables, the page, and going on where it stopped."""

from __future__ import annotations

import csv

import pytest

pytest.importorskip("jinja2", reason="jinja2 is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

FILE = """
gpus = ["h100", "b200"]
patterns = ["causal", "window left={left} right=0", "na window=5000"]
[workload]
grid = [2048, 4096]
heads = 8
head_dim = 128
[values]
left = [127, 1023]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "<b>sweep.toml"
    path.write_text(FILE)
    return path


def test_it_writes_tables_and_a_page_and_goes_on(attncast, tmp_path, file, monkeypatch):
    import attncast.cli.sweep as command

    ran = []
    original = command.run_group
    monkeypatch.setattr(command, "run_group", lambda group: ran.append(group) or original(group))
    out = tmp_path / "out"
    status, said, _ = attncast("sweep", str(file), "-o", str(out))
    assert status == 0, said
    assert "16 forecasts, 4 of calls that cannot be run" in said
    assert len(ran) == 8
    first = (out / "sweep.csv").read_text()
    rows = list(csv.DictReader(first.splitlines()))
    assert len(rows) == 16
    assert (
        sum(row["time_s"] == "" for row in rows) == sum("larger than the grid" in row["problem"] for row in rows) == 4
    )
    html = (out / "sweep.html").read_text()
    assert "&lt;b&gt;sweep.toml" in html
    assert "<b>sweep" not in html
    for name in ("sweep-density.png", "sweep-tokens-h100.png", "sweep-value-left.png", "sweep-forecasts.csv"):
        assert (out / name).stat().st_size > 200

    # One group lost, one cut short: these two run again, and the tables are the same.
    kept = sorted((out / "groups").iterdir())
    assert len(kept) == 8
    kept[0].unlink()
    kept[1].write_text("\n".join(kept[1].read_text().splitlines()[:2]))
    ran.clear()
    status, _, err = attncast("sweep", str(file), "-o", str(out))
    assert status == 0
    assert "6 of 8 groups were there already" in err
    assert len(ran) == 2
    assert (out / "sweep.csv").read_text() == first


def test_a_sweep_of_which_nothing_runs_says_why(attncast, tmp_path, file):
    file.write_text(
        FILE.replace('"causal", "window left={left} right=0", ', "").replace("[values]\nleft = [127, 1023]\n", "")
    )
    status, _, err = attncast("sweep", str(file), "-o", str(tmp_path / "out"))
    assert status == 2
    assert "can be run: window '5000' is larger than the grid" in err


def test_parquet_has_the_same_rows(attncast, tmp_path, file):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    status, _, _ = attncast("sweep", str(file), "-o", str(tmp_path / "out"))
    assert status == 0
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    found = parquet.read_table(tmp_path / "out" / "sweep.parquet").to_pylist()
    assert [row["pattern"] for row in found] == [row["pattern"] for row in rows]
    assert [row["time_s"] for row in found if not row["problem"]] == [float(r["time_s"]) for r in rows if r["time_s"]]


@pytest.mark.parametrize("gpus", ['"h100", "b200"', '"b200", "h100"'])
def test_a_gpu_and_a_pattern_have_one_colour_in_every_figure(file, gpus):
    from attncast.reports.sweep import sweep_page
    from attncast.simulator.sweep import load_sweep, run_group

    file.write_text(FILE.replace('"h100", "b200"', gpus))  # the fastest first, and the fastest last
    page = sweep_page([row for group in load_sweep(str(file)) for row in run_group(group)], "x", "")
    colours = {}
    for block in page.blocks():
        if block.kind == "figure":
            for line in block.figure.axes[0].get_lines():
                if not line.get_label().startswith("_"):
                    colours.setdefault(line.get_label(), set()).add((line.get_color(), line.get_marker()))
    assert {"h100", "b200", "causal"} <= set(colours)
    assert all(len(found) == 1 for found in colours.values())

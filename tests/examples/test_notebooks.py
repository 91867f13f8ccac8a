"""The notebooks run from top to bottom, show what they promise, and are kept without outputs."""

from __future__ import annotations

import json

import pytest

from ..paths import ROOT

NAMES = ("tour", "cascades")
PICTURES = {"tour": 3, "cascades": 1}  # figures that a reader sees
TABLES = {"tour": 2, "cascades": 1}  # results that show themselves as HTML


def read(name):
    return json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))


def test_these_are_all():
    assert {path.stem for path in (ROOT / "examples").glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_kept_without_outputs(name):
    for cell in read(name)["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize("name", NAMES)
def test_its_cells_run_one_after_the_other(name, monkeypatch):
    """In this process, where Jupyter is not needed: a line for IPython (%matplotlib inline) is passed over."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("networkx", reason="networkx is not installed")
    monkeypatch.chdir(ROOT / "examples")
    names: dict[str, object] = {}
    for number, cell in enumerate(read(name)["cells"]):
        if cell["cell_type"] == "code":
            source = "".join(line for line in cell["source"] if not line.startswith("%"))
            exec(compile(source, f"{name}.ipynb cell {number}", "exec"), names)
    if name == "tour":
        assert names["better"].kernel_time_s < names["estimate"].kernel_time_s
        assert not names["better"].work.needs_mask
    else:
        assert names["ours"] == names["base"]  # the sink costs nothing


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_sees_tables_and_pictures(name):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("networkx", reason="networkx is not installed")
    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    where = {"metadata": {"path": str(ROOT / "examples")}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    shown = [
        kind
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in output.get("data", {})
    ]
    assert (shown.count("image/png"), shown.count("text/html")) == (PICTURES[name], TABLES[name])

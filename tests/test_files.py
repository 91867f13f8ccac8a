"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attncast.errors import InputError
from attncast.files import check_output, whole_file, write_whole


def test_the_file_is_replaced_only_when_all_is_written(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with whole_file(path) as file:
        file.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail_halfway():
        with whole_file(path) as file:
            file.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "missing" / "x", tmp_path / "file" / "x", tmp_path):
        with pytest.raises(InputError, match="cannot write") as caught, whole_file(path) as file:
            file.write_text("x")
        assert str(path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "table.csv").write_text("old")
    link = tmp_path / "link.csv"
    link.symlink_to("table.csv")
    write_whole(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "table.csv").read_text() == "new"


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/null")):
        with pytest.raises(InputError, match="not a regular file"):
            write_whole(path, b"x")
    assert pipe.is_fifo()
    assert Path("/dev/null").is_char_device()


def test_an_output_is_tried_before_the_work(tmp_path):
    source = tmp_path / "rows.csv"
    source.write_text("measured")
    check_output(str(tmp_path / "out.toml"), str(source), "fit")
    (tmp_path / "link.csv").symlink_to(source)
    for output, words in (
        (source, "is the file to fit"),
        (tmp_path / "link.csv", "is the file to fit"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(InputError, match=words):
            check_output(str(output), str(source), "fit")
    with pytest.raises(InputError, match="cannot write"):
        check_output(str(tmp_path / "missing" / "x"), str(source), "fit")
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "link.csv"}

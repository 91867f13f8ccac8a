"""Files are written whole or not at all."""

from __future__ import annotations

import pytest

from attncast.errors import InputError
from attncast.files import whole_file


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

"""The disk cache: one record per key, whole or absent, whoever writes."""

from __future__ import annotations

import concurrent.futures
import json
from pathlib import Path

import pytest

from attncast.kernels import cache


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ATTNCAST_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_where_it_lives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.cache_dir() == tmp_path
    monkeypatch.delenv("ATTNCAST_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_dir() == Path("/somewhere/attncast")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.cache_dir() == Path.home() / ".cache" / "attncast"


def test_a_record_comes_back() -> None:
    key = cache.record_key("source", {"block_m": 64}, "sm_90")
    assert cache.load(key) is None
    cache.store(key, {"status": "ok"})
    assert cache.load(key) == {"status": "ok", "key": key}


def test_the_key_is_source_configuration_architecture_and_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[str]:
        return [
            cache.record_key("a", {"m": 1, "n": 2}, "sm_90"),
            cache.record_key("b", {"m": 1, "n": 2}, "sm_90"),
            cache.record_key("a", {"m": 1, "n": 3}, "sm_90"),
            cache.record_key("a", {"m": 1, "n": 2}, "sm_80"),
        ]

    first = keys()
    monkeypatch.setattr(cache, "triton_version", lambda: "99.0")
    second = keys()
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    assert len({*first, *second, *keys()}) == 12
    assert cache.record_key("a", {"n": 2, "m": 1}, "sm_90") == keys()[0]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"key": "another"}'])
def test_a_damaged_entry_is_absent_and_written_again(own_cache: Path, damage: bytes) -> None:
    key = cache.record_key("source", {}, "sm_90")
    cache.store(key, {"status": "ok"})
    (path,) = own_cache.rglob("*.json")
    path.write_bytes(damage)
    assert cache.load(key) is None
    cache.store(key, {"status": "ok"})
    assert cache.load(key) is not None


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("ATTNCAST_CACHE_DIR", str(in_the_way))
    cache.store("ab", {})
    assert cache.load("ab") is None


def _write(number: int) -> None:
    cache.store("ab" * 32, {"number": number, "filler": "x" * 50_000})


def test_concurrent_writers_leave_one_whole_record(own_cache: Path) -> None:
    with concurrent.futures.ProcessPoolExecutor(4) as pool:
        done = pool.map(_write, range(40))
        while not (record := cache.load("ab" * 32)):
            pass
        for _ in range(100):
            record = cache.load("ab" * 32)
            assert record is not None
            assert len(record["filler"]) == 50_000
        list(done)
    (path,) = (item for item in own_cache.rglob("*") if item.is_file())
    assert json.loads(path.read_text())["number"] in range(40)


def test_the_source_hash_follows_helpers_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache, "_HERE", tmp_path)
    main = "from .more import helper as h\nSIZE = 2\ndef kernel(x):\n    {doc}\n    return h(x) + SIZE\n"
    main += "def other(): {other}\n"
    more = "def helper(x): return x{helper}\ndef unused(): {unused}\n"

    def hashed(doc: str = "", other: str = "0", helper: str = "", unused: str = "0") -> str:
        cache.source_hash.cache_clear()
        cache._definitions.cache_clear()
        (tmp_path / "main.py").write_text(main.format(doc=doc, other=other))
        (tmp_path / "more.py").write_text(more.format(helper=helper, unused=unused))
        return cache.source_hash("main", "kernel")

    plain = hashed()
    assert hashed(other="1", unused="1") == plain
    assert hashed(doc="# a comment") == plain
    assert hashed(doc='"""A docstring."""') == plain
    assert hashed(helper=" + 1") != plain
    with pytest.raises(ValueError, match="defines no 'missing'"):
        cache.source_hash("main", "missing")
    cache.source_hash.cache_clear()
    cache._definitions.cache_clear()

"""Executors: workers that are killed in the middle of the work lose nothing."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import Any

import pytest

from attncast.autotune import work
from attncast.errors import InputError

HAS_DISTRIBUTED = importlib.util.find_spec("distributed") is not None
needs_distributed = pytest.mark.skipif(not HAS_DISTRIBUTED, reason="dask.distributed is not installed")


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """fake_kernel.py under a name that worker processes find too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("fake_kernel")


# Processes


def test_processes_run_in_parallel_and_give_errors_back(tasks: Any) -> None:
    with work.executor(workers=2) as pool:
        assert list(pool.map(tasks.slow_square, range(8))) == [n * n for n in range(8)]
        pids = {future.result() for future in as_completed([pool.submit(tasks.pid, n) for n in range(8)])}
        assert 1 <= len(pids - {os.getpid()}) <= 2
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(divmod, 1, 1)


def test_a_task_that_kills_its_process_is_the_only_one_lost(tasks: Any, tmp_path: Path) -> None:
    with work.executor(workers=2) as pool:
        good = [pool.submit(tasks.slow_square, n) for n in range(6)]
        bad = pool.submit(tasks.die, 7)
        once = pool.submit(tasks.die_once, str(tmp_path / "died"), 5)
        later = [pool.submit(tasks.slow_square, n) for n in range(6)]
        assert [future.result() for future in good + later] == [n * n for n in range(6)] * 2
        assert once.result() == 5
        with pytest.raises(work.LostWithWorker, match="died 3 times"):
            bad.result()


def test_a_process_killed_from_outside_loses_nothing(tasks: Any) -> None:
    with work.executor(workers=2) as pool:
        victim = pool.submit(tasks.pid, 0).result()
        futures = [pool.submit(tasks.slow_square, n) for n in range(10)]
        futures[1].result()
        os.kill(victim, signal.SIGKILL)
        assert [future.result() for future in futures] == [n * n for n in range(10)]


def test_an_interrupted_run_drops_what_did_not_start(tasks: Any) -> None:
    started = time.monotonic()
    futures = []
    with contextlib.suppress(KeyboardInterrupt), work.executor(workers=1) as pool:
        futures = [pool.submit(tasks.slow_square, n) for n in range(100)]
        futures[0].result()
        raise KeyboardInterrupt
    assert sum(future.cancelled() for future in futures) > 80
    assert time.monotonic() - started < 10


def test_compilations_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from attncast.kernels.compile import compile_many
    from attncast.kernels.space import KernelConfig

    monkeypatch.setenv("ATTNCAST_CACHE_DIR", str(tmp_path))
    small = KernelConfig(head_dim=16, block_m=16, block_n=16, num_warps=1, num_stages=1)
    with work.executor(workers=1) as pool:
        (facts,) = compile_many([(small, "sm_80")], executor=pool)
    assert facts.status == "ok", facts.reason


# Clusters


@pytest.mark.parametrize("address", ["localhost:8786", "http://localhost:8786", "tcp://localhost", ""])
def test_an_address_that_is_none(address: str) -> None:
    with (
        pytest.raises(InputError, match=r"expected the address of a dask scheduler, e\.g\. tcp://host:8786"),
        _run(address),
    ):
        pass


def test_without_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'attncast\[cluster\]'"), _run("tcp://localhost:1"):
        pass


@needs_distributed
def test_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_CONNECT_S", 0.5)
    with pytest.raises(InputError, match="does not answer"), _run("tcp://127.0.0.1:1"):
        pass


def _run(address: str) -> contextlib.AbstractContextManager[Executor]:
    return work.executor(address)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers, each a process of its own with one GPU to its name."""
    folder = tmp_path_factory.mktemp("cluster")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", "from dask.__main__ import main; main()"]
    here = ["--host", "127.0.0.1", "--no-dashboard"]
    worker = [
        "--nthreads",
        "1",
        "--no-nanny",
        "--resources",
        "GPU=1",
        "--local-directory",
        str(folder),
        "--no-dashboard",
    ]
    commands = [[*run, "scheduler", *here, "--port", str(port)]]
    commands += [[*run, "worker", address, "--host", "127.0.0.1", *worker] for _ in range(2)]
    with (folder / "log").open("wb") as log:
        processes = [subprocess.Popen(command, env=environment, stdout=log, stderr=log) for command in commands]
    try:
        from distributed import Client

        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address, processes
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


@needs_distributed
def test_a_fleet_measures(cluster: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    """Our kernel, interpreted, in processes that the cluster's workers start: two configurations at a time."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("tests the interpreted kernel: a GPU is here")
    from attncast import Workload
    from attncast.autotune import on_gpu
    from attncast.autotune.refine import refine

    from .tunings import triton_config, tuning

    made = tuning([triton_config(32, 32, 4, 1), triton_config(100, 32), triton_config(16, 32, 4, 1)])
    measure = functools.partial(on_gpu.measure_far, on_gpu.Call(Workload(64, 2, 16), "causal", device="cpu"))
    with work.executor(cluster[0], gpus=True) as pool:
        found = refine(made, measure, executor=pool, width=2)
    assert [c.config["BLOCK_M"] for c in found.ruled_out] == [100]
    assert {c.config["BLOCK_M"] for c in found.ranking if c.measured_s} == {16, 32}


@needs_distributed
def test_a_cluster_worker_killed_in_mid_run_loses_nothing(
    cluster: tuple[str, list[subprocess.Popen[bytes]]], tasks: Any
) -> None:
    address, (_, victim, survivor) = cluster
    with work.executor(address, gpus=True) as pool:
        pids = {future.result() for future in [pool.submit(tasks.pid, n) for n in range(12)]}
        assert pids == {victim.pid, survivor.pid}  # equal calls are run each time, not remembered
        futures = [pool.submit(tasks.slow_square, n) for n in range(40)]
        next(as_completed(futures, timeout=30))
        victim.send_signal(signal.SIGKILL)
        left = sum(not future.done() for future in futures)
        assert left > 10  # it was in the middle
        assert [future.result(timeout=60) for future in futures] == [n * n for n in range(40)]
        assert {pool.submit(tasks.pid, n).result(timeout=30) for n in range(3)} == {survivor.pid}

"""CTAs that wait for themselves: the bounds against an event simulation, and how many an SM holds, by hand."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncast.hwmodels import load_gpu
from attncast.simulator import waiting
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import Conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.patterns.band import UNLIMITED, Band
from attncast.simulator.profile import load_profile
from attncast.simulator.waiting import Compiled, Ctas, in_turn, span_cycles
from attncast.simulator.workload import Workload

NONE = np.zeros(1, dtype=np.bool_)


def simulated(work: float, chain: float, ctas: int, sms: int, residents: int) -> float:
    """Like CTAs over SMs: each works in small pieces on its SM's one pipe, and waits in between for the rest of its chain."""
    pieces = 50
    ends = []
    for sm in range(sms):
        queue = len(range(sm, ctas, sms))
        started = min(queue, residents)
        # Time at which each resident wants the pipe for its next piece, and the pieces it has left.
        wants = [(0.0, number, pieces) for number in range(started)]
        heapq.heapify(wants)
        free, end = 0.0, 0.0
        while wants:
            ready, number, left = heapq.heappop(wants)
            free = max(free, ready) + work / pieces
            again = free + (chain - work) / pieces
            if left > 1:
                heapq.heappush(wants, (again, number, left - 1))
            else:
                end = max(end, again)
                if started < queue:
                    started += 1
                    heapq.heappush(wants, (again, number, pieces))
        ends.append(end)
    return max(ends)


def span(work: float, chain: float, ctas: int, sms: int, residents: int) -> float:
    one = (np.array([value]) for value in (work, chain, 0.0))
    grid = Ctas(np.array([float(ctas)]), np.array([0]), np.ones(1), sms, np.array([float(residents)]), False, NONE)
    found = span_cycles(*one, grid, True)
    return float(found[0])


@settings(max_examples=150)
@given(
    work=st.floats(10.0, 100.0),
    times=st.floats(1.0, 12.0),
    ctas=st.integers(1, 200),
    sms=st.integers(1, 8),
    residents=st.integers(1, 8),
)
def test_the_bounds_are_what_an_event_simulation_takes(
    work: float, times: float, ctas: int, sms: int, residents: int
) -> None:
    found, events = span(work, work * times, ctas, sms, residents), simulated(work, work * times, ctas, sms, residents)
    # Bounds, never above the simulation but for whole waves; CTAs that leave at different times cost up to a wave more.
    waves = -(-ctas // (sms * residents))
    assert found <= events * 1.02 + 1e-6
    assert events <= found * (1.0 + 1.0 / waves) + 1e-6


@given(
    tiles=st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True),
    ratio=st.floats(1.0, 4.0),
    longer=st.floats(1.0, 1.5),
    end=st.floats(0.0, 3.0),
    latency=st.floats(0.0, 3.0),
    counts=st.integers(1, 60),
    residents=st.integers(1, 4),
)
def test_what_takes_a_cta_longer_never_ends_a_call_sooner(
    tiles: list[int], ratio: float, longer: float, end: float, latency: float, counts: int, residents: int
) -> None:
    """CTAs of several lengths, of which the short ones wait and the long ones fill each other's waits."""
    lengths = np.array(sorted(tiles, reverse=True), dtype=float)
    row, held = np.array([0]), np.array([float(residents)])
    grid = Ctas(np.full(lengths.size, float(counts)), row, np.ones(1), 4, held, False, NONE, rising=True)

    def span_of(beyond: float, waits: float) -> float:
        return float(span_cycles(lengths, lengths * ratio + beyond + waits, np.array([waits]), grid, True)[0])

    once = span_of(end, latency)
    assert once <= span_of(end * longer, latency) * (1.0 + 1e-12)
    assert once <= span_of(end, latency * longer) * (1.0 + 1e-12)


def test_a_lone_cta_takes_its_chain_and_many_take_the_pipe() -> None:
    assert span(10.0, 80.0, 1, 4, 8) == 80.0
    assert span(10.0, 80.0, 4 * 8, 4, 8) == 80.0  # eight on each SM, whose work fills the chain
    assert span(10.0, 80.0, 4 * 80, 4, 8) == pytest.approx(800.0)
    assert span(10.0, 80.0, 4 * 8, 4, 2) == pytest.approx(4 * 80.0)  # two on each SM, four times


def test_a_chain_of_its_work_is_a_kernel_that_never_waits() -> None:
    for residents in (1, 2, 4):
        assert span(10.0, 10.0, 40, 4, residents) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("gpu", "compiled", "expected"),
    [
        ("b200", Compiled(256, 119, 32776, 131072), 2),  # 65536 // (120 x 256), and two of half the tensor memory
        ("b200", Compiled(256, 216, 32776, 131072), 1),  # 65536 // (216 x 256)
        ("b200", Compiled(128, 86, 21504), 5),  # 65536 // (88 x 128)
        ("b200", Compiled(128, 16, 83000), 2),  # 228 KiB // (83000 + 1 KiB)
        ("h100", Compiled(1024), 2),  # 2048 threads
        ("rtx-pro-6000", Compiled(256, 255, 102400), 1),
    ],
)
def test_residents_are_counted_from_what_they_hold(gpu: str, compiled: Compiled, expected: int) -> None:
    assert compiled.residents(load_gpu(gpu)) == expected


@settings(max_examples=100)
@given(work=st.floats(1.0, 50.0), moving=st.floats(1.0, 50.0), residents=st.integers(1, 6), seed=st.integers(0, 99))
def test_ctas_that_take_turns_with_memory_take_no_longer_than_the_bound(
    work: float, moving: float, residents: int, seed: int
) -> None:
    """A closed network of two stations: tiles are loaded one after the other, and worked on one after the other."""
    tiles, rng = 400, np.random.default_rng(seed)
    ready = np.sort(rng.uniform(0.0, moving, residents))  # when each CTA asks for its next tile
    memory = pipe = 0.0
    for _ in range(tiles):
        cta = int(np.argmin(ready))
        memory = max(memory, ready[cta]) + moving
        pipe = max(pipe, memory) + work
        ready[cta] = pipe
    tile = pipe / tiles
    bound = max(work, moving) + float(in_turn(np.array(work), np.array(moving), np.array(float(residents))))
    assert max(work, moving) * 0.95 <= tile <= bound * 1.05 + moving / tiles
    if residents == 1:
        assert tile == pytest.approx(work + moving, rel=0.02)


@pytest.mark.parametrize(
    ("kernel", "engine", "tokens", "dtype", "waits"),
    [
        ("sglang-triton", "sglang", 1, "bf16", True),
        ("sglang-triton", "sglang", 2048, "bf16", False),  # a prompt
        ("triton", "vllm", 1, "fp8", False),  # loads run a tile ahead
        ("fa2", "vllm", 1, "bf16", False),  # loads run stages ahead
    ],
)
def test_decoding_whose_loads_nothing_hides_takes_turns_with_memory(
    kernel: str, engine: str, tokens: int, dtype: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, pattern = load_gpu("rtx-pro-6000"), Band(UNLIMITED, 0)
    workload = Workload((tokens,), 16, 128, batch=64, heads_kv=2, cached=0 if tokens > 1 else 8191, dtype=dtype)
    profile = load_profile(kernel, gpu, engine)
    tiles = resolve_tiles(profile, pattern, workload, None, None)
    work = kernel_work(profile, pattern, workload, tiles)
    calls = single_call(
        gpu, profile, workload, pattern, tiles, work, Conditions(graph=True, appends=True, engine=engine)
    )
    told = forecast(gpu, profile, calls)
    monkeypatch.setattr(waiting, "in_turn", lambda work, moving, residents: np.zeros_like(work))
    apart = forecast(gpu, profile, calls)
    added_s = told.kernel_s[0] - apart.kernel_s[0]
    assert 1e-6 < added_s < 0.5 * apart.kernel_s[0] if waits else added_s == 0.0
    assert np.isclose(told.parts["memory"][0] - apart.parts["memory"][0], added_s, atol=1e-12)

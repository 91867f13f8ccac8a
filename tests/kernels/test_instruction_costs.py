"""What instructions take, and what a walk makes of it."""

from __future__ import annotations

import pytest

from attncast.kernels.instruction_costs import Cost, cost_of
from attncast.kernels.straight import steps
from attncast.kernels.walk import BARRIER_CYCLES, BARRIER_WARP_CYCLES

from .machine_code import EXP, MEET, line, only_loop, turn_cycles

COMPARE, WIDE, LOGIC = "ISETP.GE.AND P0, PT, R1, R2, PT", "ISETP.LT.S64.AND P0, PT, R2, UR4, PT", "LOP3.LUT R1, R2, R3"


def cost(text: str, arch: str) -> Cost:
    (step,), _ = steps(line(text))
    return cost_of(step, 0, arch, {})


def of_many(*texts: str, warps: int = 4, arch: str = "sm_120") -> float:
    """Cycles of forty turns of these instructions for some warps, without what meeting takes."""
    turn = only_loop(EXP, *[line(text) for text in texts] * 40, MEET)
    return turn_cycles(turn, warps, arch=arch) - BARRIER_CYCLES - BARRIER_WARP_CYCLES * 4 * warps


def test_pipes_are_the_architectures_own() -> None:
    assert 4 * 40 * 2 <= of_many(COMPARE, arch="sm_90") < 4 * 40 * 2 + 15
    assert 4 * 40 <= of_many(COMPARE) < 4 * 40 + 15  # as fast as they are issued
    adds, both = (of_many(*texts, arch="sm_90") for texts in (["VIADD R1, R2, 0x1"], ["VIADD R1, R2, 0x1", LOGIC]))
    assert both < 1.1 * adds  # they run side by side


def test_consumer_blackwell_compares_beside_its_alu_but_not_64_bits() -> None:
    """Two warps leave no slot empty where the pipes do not: a comparison fills the cycle that the ALU is still taken."""
    assert of_many(COMPARE, LOGIC) == pytest.approx(4 * 40 * 2, abs=15)
    assert of_many(COMPARE, LOGIC, arch="sm_90") == pytest.approx(4 * 40 * 4, abs=15)
    # 64 bits are issued twice; right after them the ALU is taken for another cycle.
    assert (
        of_many(WIDE) == of_many("MOV.64 R2, UR4") == of_many("IADD.64 R2, R2, R4") == pytest.approx(4 * 40 * 2, abs=15)
    )
    assert of_many(WIDE, LOGIC) == pytest.approx(4 * 40 * 4, abs=15)
    assert of_many(WIDE, "FMUL R1, R2, R3") == pytest.approx(4 * 40 * 3, abs=15)


def test_a_warp_is_held_no_longer_than_ptxas_stalls_it() -> None:
    """ptxas's least stalls between two kinds of instructions of consumer Blackwell, here left to the pipes."""
    stalls = {
        (WIDE, WIDE): 2,
        (WIDE, LOGIC): 3,
        (LOGIC, WIDE): 1,
        (LOGIC, LOGIC): 2,
        (COMPARE, LOGIC): 1,
        (LOGIC, COMPARE): 1,
    }
    for (first, second), stall in stalls.items():
        found = turn_cycles(only_loop(EXP, line(first, 1), line(second, 10)), 1, arch="sm_120")
        far = turn_cycles(only_loop(EXP, line(first, 10), line(second, 10)), 1, arch="sm_120")
        assert found - far + 10 == stall, (first, second)
    for arch in ("sm_80", "sm_90", "sm_100"):
        assert cost(WIDE, arch) == cost(COMPARE, arch) == cost(LOGIC, arch)


def test_what_a_load_takes_is_told_by_its_bytes_and_by_who_waits() -> None:
    assert cost("LDL.64 R2, [R1]", "sm_90").occupied == 8
    assert cost("LDL R2, [R1]", "sm_90").occupied == 4
    assert cost("LDL R2, [R1]", "sm_120").occupied == 8
    assert cost("UIADD3 UR4, UPT, UPT, UR4, 0x1, URZ", "sm_90") == Cost(12)
    assert cost("NOP", "sm_90") == Cost(0)

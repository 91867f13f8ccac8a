"""Walks over machine code written by hand, cycle by cycle."""

from __future__ import annotations

import random

import pytest
from click.testing import CliRunner

from attncast.errors import InputError
from attncast.hwmodels import load_gpu
from attncast.kernels.near_memory import SETS, NearMemory, Traffic
from attncast.kernels.straight import loops, outside, skipped_turn, steps
from attncast.kernels.walk import STARTS, TURNS, Walked, in_code_order, main, serial_loads, walked

from .machine_code import EXP, MEET, body, line, only_loop, turn_cycles


def test_control_words_are_read_bit_by_bit():
    (step,), labels = steps(line("@!P1 LDG.E.128 R4, [R2.64]", stall=5, writes=2, reads=3, waits=0b100001))
    assert (step.stall, step.writes, step.reads, step.waits) == (5, 2, 3, 0b100001)
    assert step.opcode == "LDG.E.128"
    assert labels == {}


def test_stalls_add_up_and_a_scoreboard_is_waited_for():
    # 4 + 6 + 1 for the branch; the exponential's result is there after 30, and the add that waits for it stalls 6.
    assert turn_cycles(only_loop(line("MUFU.EX2 R1, R2", 4), line("FADD R3, R4, R5", 6)), 1) == 11
    waits = only_loop(line("MUFU.EX2 R1, R2", 4, writes=0), line("FADD R3, R1, R5", 6, waits=1))
    assert turn_cycles(waits, 1) == 30 + 6 + 1


def test_warps_fill_each_others_waits_until_a_pipe_is_full():
    waits = only_loop(line("MUFU.EX2 R1, R2", 4, writes=0), line("FADD R3, R1, R5", 6, waits=1), line("BAR.SYNC 0x0"))
    # Without the barrier's own time, of four schedulers' warps.
    alone, two, eight, sixteen = (turn_cycles(waits, warps) - 2 * 4 * warps for warps in (1, 2, 8, 16))
    assert two <= alone + 9  # a second exponential, 8 cycles of its unit later, and its issue
    assert eight < 2 * two
    assert 8 * 8 <= sixteen - eight <= 8 * 9  # the unit is all that counts


def test_loads_that_depend_on_each_other_are_counted():
    chain = only_loop(
        line("MUFU.EX2 R9, R8"),
        line("LDG.E.64 R2, [R4]", writes=0),
        line("LDG.E.128 R8, [R2]", writes=1, waits=1),
        line("FADD R3, R8, R5", waits=2),
    )
    assert serial_loads(chain) == pytest.approx(2.0, abs=0.02)
    together = only_loop(
        line("MUFU.EX2 R9, R8"),
        line("LDG.E.128 R2, [R4]", writes=0),
        line("LDG.E.128 R8, [R6]", writes=1),
        line("FADD R3, R8, R2", waits=3),
    )
    assert serial_loads(together) == pytest.approx(1.0, abs=0.02)


def test_loads_of_one_size_keep_their_order_where_a_compiler_moves_others_between() -> None:
    code = only_loop(*(line(f"LDG.E.{bits} R2, [R4]", writes=0) for bits in ("64", "128", "64", "128")), EXP)
    told = [(8, False), (8, True), (16, False), (16, False)]  # the PTX has both loads of 8 bytes first
    assert in_code_order(code, told) == [False, False, True, False]
    assert in_code_order(code, told[1:]) == []  # not the same loads


def test_a_load_that_the_l1_has_is_not_waited_for_whatever_lies_before_it_in_the_ptx(tmp_path) -> None:
    key = line("LDG.E.128 R8, [R2]", writes=1, waits=1), line("FADD R3, R8, R5", waits=2)
    index = line("LDG.E.64 R2, [R4]", writes=0)
    sass, ptx = tmp_path / "kernel.txt", tmp_path / "kernel.ptx"
    sass.write_text(body(index, *key, index, line("FADD R3, R2, R5", waits=1), EXP))
    ptx.write_text(
        ".entry k(.param .u64 p)\n.reqntid 32\n{\nld.param.b64 %rd1, [p];\n$L__BB0_1:\n"
        "ld.global.b64 %rd2, [%rd1];\nld.global.b64 %rd3, [%rd1];\nld.global.v4.b32 {%r2, %r3, %r4, %r5}, [%rd2];\n"
        "ex2.approx.ftz.f32 %f1, %f2;\n@%p1 bra $L__BB0_1;\nret;\n}\n"
    )
    result = CliRunner().invoke(main, [str(sass), "--gpu", "h100", "--warps", "1", "--ptx", str(ptx)])
    assert "waits = 2.0" in result.output
    assert "waits = 3.0" in CliRunner().invoke(main, [str(sass), "--gpu", "h100", "--warps", "1"]).output


def test_what_an_older_disassembler_notes_behind_an_instruction_is_none_of_it() -> None:
    (step,), _ = steps(line("DEPBAR.LE SB0, 0x0                      &req={2}    ?trans1", waits=4))
    assert (step.text, step.waits) == ("DEPBAR.LE SB0, 0x0", 4)


def test_warps_meet_at_a_barrier_that_takes_longer_for_more_of_them():
    late = only_loop(line("MUFU.EX2 R1, R2", writes=0), line("BAR.SYNC 0x0", waits=1))
    assert turn_cycles(late, 2) >= 30 + 21 + 2 * 8
    assert turn_cycles(late, 1) == 30 + 21 + 2 * 4 + 1


def test_a_load_is_there_when_it_has_passed_and_its_latency_is_told_apart() -> None:
    memory = NearMemory(28 * 1024, 1e9, 16.0)  # a line of a scheduler's share takes 32 cycles
    lines = [line(f"LDG.E.128 R{4 * n}, [R2]", writes=0) for n in range(5)]
    loads = only_loop(line("MUFU.EX2 R9, R8"), *lines, line("FADD R3, R4, R5", waits=1))
    assert turn_cycles(loads, 1, memory=memory) == pytest.approx(5 * 4 * 32, rel=0.05)
    assert turn_cycles(loads, 1) < 50
    faster = NearMemory(28 * 1024, 1e9, 1000.0)  # the port's 64 bytes a cycle
    assert turn_cycles(loads, 1, memory=faster) == pytest.approx(5 * 4 * 8, rel=0.15)


def test_ctas_that_share_an_sm_take_turns_on_its_pipes() -> None:
    waits = only_loop(line("MUFU.EX2 R1, R2", 4, writes=0), line("FADD R3, R1, R5", 6, waits=1))
    found = walked(waits, 2)
    assert found.busy == 2 * 8  # of the exponentials' unit
    assert found.beside(1) == found.cycles
    assert found.beside(3) == pytest.approx((found.cycles + 2 * found.busy) / 3)
    assert Walked(100.0, 100.0).beside(4) == 100.0


def test_ctas_walked_together_lie_between_the_busiest_pipe_and_the_bound() -> None:
    """They fill each other's waits, and their barriers are their own: neither faster than the busiest pipe, nor than one alone
    would be in its own place, nor slower than the bound."""
    for waits in (
        only_loop(line("MUFU.EX2 R1, R2", 4, writes=0), line("FADD R3, R1, R5", 6, waits=1), MEET),
        only_loop(EXP, *[line("LDS.128 R4, [R1]", writes=0), line("FADD R3, R4, R5", 5, waits=1)] * 6, MEET),
    ):
        for ctas in (2, 3, 5):
            alone = walked(waits, 2)
            found = walked(waits, 2, turns=8, ctas=ctas, apart=alone.cycles / ctas)
            assert max(alone.busy, alone.cycles / ctas) * 0.97 <= found.cycles <= 1.03 * alone.beside(ctas)
    assert walked(waits, 2, ctas=1) == walked(waits, 2)


def test_a_cta_walked_beside_others_has_its_share_of_the_l1() -> None:
    spills = only_loop(EXP, *[line(f"LDL R{n}, [R1+{hex(4 * n)}]", writes=0) for n in range(40)], line("NOP", waits=1))
    small, large = (NearMemory(kib * 1024, 300.0, 32.0) for kib in (4, 64))
    together = [walked(spills, 1, memory=memory, turns=6, ctas=2, apart=50.0).cycles for memory in (small, large)]
    assert together[0] == pytest.approx(
        40 * 4 * 128 / 32.0, rel=0.02
    )  # 40 lines of each of four schedulers from the L2
    assert together[1] < 0.5 * together[0]


def test_a_wait_for_products_of_tensor_memory_takes_what_one_takes_at_least() -> None:
    product = only_loop(EXP, line("SYNCS.PHASECHK.TRANS64.TRYWAIT P6, [UR4], RZ", writes=1), line("NOP", waits=2))
    assert turn_cycles(product, 1, arch="sm_100") == 1 + 136 + 1 + 1
    assert turn_cycles(product, 1, arch="sm_90") < 10


def test_a_load_that_the_turn_has_made_before_is_not_waited_for_again() -> None:
    twice = only_loop(
        line("MUFU.EX2 R9, R8"),
        line("LDG.E.64 R2, [R4]", writes=0),
        line("FADD R3, R2, R5", waits=1),
        line("LDG.E.64 R6, [R4]", writes=1),
        line("FADD R7, R6, R5", waits=2),
    )
    assert serial_loads(twice) == pytest.approx(2.0, abs=0.02)
    assert serial_loads(twice, [False, True]) == pytest.approx(1.0, abs=0.05)


def test_asynchronous_copies_are_waited_for_where_none_may_be_left() -> None:
    def copies(left: str) -> float:
        return serial_loads(
            only_loop(
                line(f"DEPBAR.LE SB0, {left}"),
                line("MUFU.EX2 R9, R8"),
                line("LDGSTS.E.BYPASS.128 [R12], [R4.64]"),
                line("LDGDEPBAR", writes=0),
            )
        )

    assert copies("0x0") == pytest.approx(1.0, abs=0.02)
    assert copies("0x1") == pytest.approx(0.0, abs=0.02)


def test_consumer_parts_pass_a_memory_instruction_on_every_other_cycle() -> None:
    """Eight cycles of a scheduler for each, however few bytes; of 16 bytes a lane twice that everywhere."""
    narrow, wide = (only_loop(EXP, *[line(f"LDS{size} R4, [R1]")] * 40, MEET) for size in (".U8", ".128"))
    assert turn_cycles(narrow, 2, arch="sm_90") == pytest.approx(2 * 40 * 4, rel=0.15)
    assert turn_cycles(narrow, 2, arch="sm_120") == pytest.approx(2 * 40 * 8, rel=0.1)
    assert turn_cycles(wide, 2, arch="sm_120") == turn_cycles(wide, 2, arch="sm_90")


def test_bank_conflicts_occupy_the_shared_memory() -> None:
    stores = only_loop(EXP, *[line("STS.U8 [R1], R2") for _ in range(10)], MEET)
    assert turn_cycles(stores, 2, conflicts={("store", 1): 16.0}) == pytest.approx(2 * 10 * 16 * 4, rel=0.05)


def spilling(registers: int):
    loads = [line(f"LDL R4, [R1+{4 * n:#x}]", writes=0) for n in range(registers)]
    return only_loop(line("MUFU.EX2 R9, R8"), *loads, line("FADD R3, R4, R5", waits=1))


def test_spilled_registers_come_from_the_l2_where_the_l1_does_not_hold_them() -> None:
    # A warp's word is a line of 128 bytes: 40 of them are 5 KiB of the scheduler's quarter of an L1.
    near, far = (NearMemory(kib * 1024, 300.0, 32.0) for kib in (32, 12))
    body = spilling(40)
    assert turn_cycles(body, 1, memory=near) == turn_cycles(body, 1)
    # All wait together, for what passes the port and the SM's share of the L2: no more than its lines take there.
    assert 300 < turn_cycles(body, 1, memory=far) < 300 + 40 * 4 * 128 / 32 + 200
    slow = NearMemory(1024, 300.0, 4.0)
    assert turn_cycles(body, 1, memory=slow) == pytest.approx(40 * 4 * 128 / 4, rel=0.1)


def test_a_line_is_there_while_its_set_has_room_for_those_asked_for_since() -> None:
    memory = NearMemory(28 * 1024, 300.0, 64.0)  # 224 lines, 56 of them for each scheduler
    for lines, least, most in ((32, 0.0, 0.0), (56, 0.4, 0.6), (64, 0.85, 0.95), (80, 0.99, 1.0)):
        traffic = Traffic(memory)
        for word in range(lines):
            assert traffic.load(0.0, word) >= 300.0  # never asked for before
        before = traffic.busy
        again = [traffic.load(before, word) - before for word in range(lines)]
        missed = (traffic.busy - before) / lines / (4 * 128 / 64)
        assert least <= missed <= most + 1e-9
        assert (max(again) == 0.0) == (most == 0.0)


def test_a_loop_misses_as_often_as_its_lines_fill_their_sets() -> None:
    """Against sets in which the line that was longest not asked for gives way, with lines dealt to them by chance."""
    ways, rng = 128, random.Random(0)
    for lines in (480, 496, 512, 528, 544):  # of all four schedulers
        missed = []
        for _ in range(400):
            sets = [rng.randrange(SETS) for _ in range(lines)]
            missed.append(sum(count for each in range(SETS) if (count := sets.count(each)) > ways) / lines)
        traffic = Traffic(NearMemory(ways * SETS * 128, 300.0, 64.0))
        for _ in range(2):
            before = traffic.busy
            for word in range(lines // 4):
                traffic.load(before, word)
        found = (traffic.busy - before) / (lines // 4) / (4 * 128 / 64)
        assert found == pytest.approx(sum(missed) / len(missed), abs=0.05)


@pytest.mark.parametrize(("kib", "share"), [(90, 0.16), (101, 0.80), (120, 1.0)])
def test_a_loop_misses_what_the_module_says_of_an_l1_of_96_kib(kib: int, share: float) -> None:
    traffic, lines = Traffic(NearMemory(96 * 1024, 300.0, 64.0)), kib * 1024 // 128 // 4
    for _ in range(2):
        before = traffic.busy
        for word in range(lines):
            traffic.load(before, word)
    assert (traffic.busy - before) / lines / (4 * 128 / 64) == pytest.approx(share, abs=0.005)


def test_what_is_stored_passes_to_the_l2_and_is_read_near() -> None:
    memory = NearMemory(28 * 1024, 300.0, 16.0)
    stores = [line(f"STL.64 [R1+{8 * n:#x}], R2") for n in range(20)]
    loads = [line(f"LDL.64 R4, [R1+{8 * n:#x}]", writes=0) for n in range(20)]
    both = only_loop(EXP, *stores, *loads, line("FADD R3, R4, R5", waits=1), MEET)
    assert turn_cycles(both, 1, memory=memory) == pytest.approx(20 * 2 * 4 * 128 / 16, rel=0.1)


def test_what_is_stored_goes_a_way_of_its_own_of_half_a_sector_a_cycle() -> None:
    memory = NearMemory(1024, 20.0, 32.0)  # its L1 holds two lines of a scheduler
    loads = [line(f"LDL R4, [R1+{4 * n:#x}]", writes=0) for n in range(40)]
    stores = [line(f"STL [R1+{4 * n:#x}], R2") for n in range(40, 60)]
    mixed = [text for n in range(20) for text in (loads[2 * n], loads[2 * n + 1], stores[n])]
    loaded, stored, both = (
        turn_cycles(only_loop(EXP, *lines, line("FADD R3, R4, R5", waits=1), MEET), 1, memory=memory)
        for lines in (loads, stores, mixed)
    )
    assert loaded == pytest.approx(40 * 4 * 128 / 32, rel=0.1)
    assert stored == pytest.approx(20 * 4 * 128 / 16, rel=0.15)  # half as many, at half the rate
    assert both < 1.15 * max(loaded, stored)
    slower = turn_cycles(only_loop(EXP, *stores, MEET), 1, memory=NearMemory(1024, 20.0, 8.0))
    assert slower == pytest.approx(20 * 4 * 128 / 8, rel=0.15)  # no more than an SM's share of the L2


def test_the_l1_is_what_the_shared_memory_leaves() -> None:
    memory = NearMemory.of(load_gpu("rtx-pro-6000"))
    assert memory.l1_bytes == 28 * 1024
    assert memory.l2_bytes_per_clock == pytest.approx(8.7e12 / 188 / load_gpu("rtx-pro-6000").clock_hz)


@pytest.mark.parametrize(
    ("gpu", "ctas", "shared_bytes", "kib"),
    [
        ("rtx-pro-6000", 1, 49152, 64),
        ("rtx-pro-6000", 1, 49160, 28),
        ("rtx-pro-6000", 6, 2048, 64),
        ("h100", 2, 12288, 224),
    ],
)
def test_less_shared_memory_leaves_more_of_an_l1(gpu: str, ctas: int, shared_bytes: int, kib: int) -> None:
    assert NearMemory.of(load_gpu(gpu), ctas, shared_bytes).l1_bytes == kib * 1024 // ctas


def test_the_part_that_finds_a_tile_outside_a_window_ends_at_its_branch_and_goes_on_where_that_leads() -> None:
    before = (line("MUFU.EX2 R9, R8"), line("@P1 BRA `(.L_x_9)"), line("FADD R1, R2, R3"), line("HMMA.16816 R4, R5"))
    found = [step.text for step in skipped_turn(*steps(body(*before)), 0)]
    assert found == ["MUFU.EX2 R9, R8", "@P1 BRA `(.L_x_9)", "@P0 BRA `(.L_x_1)"]
    advances = (*before, ".L_x_9:\n", line("IADD3 R6, R6, R7"))
    found = [step.text for step in skipped_turn(*steps(body(*advances)), 0)]
    assert found == ["MUFU.EX2 R9, R8", "@P1 BRA `(.L_x_9)", "IADD3 R6, R6, R7", "@P0 BRA `(.L_x_1)"]
    assert skipped_turn(*steps(body(EXP, line("HMMA.16816 R4, R5"))), 0) == []
    assert skipped_turn(*steps(body(EXP)), 0) == []


def test_a_scoreboard_is_released_by_the_last_of_those_that_it_counts() -> None:
    both = only_loop(
        line("MUFU.EX2 R9, R8"),
        line("LDG.E.128 R2, [R4]", writes=0),
        line("LDS R8, [R6]", writes=0),
        line("FADD R3, R8, R2", waits=1),
    )
    assert serial_loads(both) == pytest.approx(1.0, abs=0.03)  # less what a wait for the second one takes by itself


def test_what_lies_around_a_loop_leaves_other_loops_out() -> None:
    prefix = [".L_x_1:\n", line("MUFU.EX2 R1, R2"), line("HMMA.1 R4, R5"), line("@P0 BRA `(.L_x_1)")]
    new_keys = [".L_x_3:\n", line("MUFU.EX2 R3, R2"), line("HMMA.2 R4, R5"), line("@P0 BRA `(.L_x_3)")]
    before = [line("S2R R0"), line("BRA.U !UP1, `(.L_x_2)"), line("MOV R7, R8")]
    between = [".L_x_2:\n", line("BRA.U UP0, `(.L_x_4)"), line("BRA `(.L_x_5)"), ".L_x_4:\n", line("LDG.E R6, [R0]")]
    after = [".L_x_5:\n", line("@!P3 EXIT"), line("STG.E [R0], R6"), line("EXIT"), line("BRA `(.L_x_2)")]
    text = "".join([*before, *prefix, *between, *new_keys, *after])
    code, labels = steps(text)
    assert [[step.opcode for step in body][1] for body in loops(code, labels)] == ["HMMA.1", "HMMA.2"]
    assert [step.opcode for step in outside(code, labels, 1)] == ["S2R", "BRA.U", "BRA.U", "LDG.E", "EXIT", "STG.E"]
    assert [step.opcode for step in outside(code, labels, 0)] == [
        "S2R",
        "BRA.U",
        "MOV",
        "BRA.U",
        "BRA",
        "EXIT",
        "STG.E",
    ]
    assert outside(*steps(body(line("MUFU.EX2 R1, R2"))), 0) == []


def test_what_runs_once_finds_nothing_in_the_l1() -> None:
    far = NearMemory(28 * 1024, 300.0, 64.0)
    assert walked(spilling(4), 1, memory=far, turns=1).cycles > 300 > walked(spilling(4), 1, memory=far).cycles


def test_text_without_encodings_is_refused():
    with pytest.raises(InputError, match="nvdisasm -hex"):
        steps("/*0000*/ MOV R1, R2 ;")


def test_the_command_prints_what_a_profile_takes(tmp_path) -> None:
    path = tmp_path / "kernel.txt"
    path.write_text(body(line("MUFU.EX2 R1, R2", 4), line("@P1 BRA `(.L_x_9)", 2), line("HMMA.16816 R4, R5", 6)))
    found = CliRunner().invoke(main, [str(path), "--gpu", "h100", "--warps", "4", "--residents", "2"])
    # Alone, and of each of two that take turns on the exponentials' unit: 8 cycles.
    assert found.output == ("cycles = 13, work_cycles = 10\ntest_cycles = 8, test_work_cycles = 8\nwaits = 0.0\n")
    path.write_text(line("MOV R1, R2", 5) + path.read_text() + line("EXIT"))
    found = CliRunner().invoke(main, [str(path), "--gpu", "h100", "--warps", "4"])
    assert "\nend_cycles = 5, end_work_cycles = 5\n" in found.output
    # A word that is stored twice is one of the frame; one of a loop's own is stored in every tile.
    spills = [line("STL.64 [R1+0x8], R2", writes=0), line("STL [R1+0xc], R3", writes=0)]
    path.write_text(line("STL [R1], R2", 5) + body(line("MUFU.EX2 R1, R2", 4), *spills) + line("EXIT"))
    found = CliRunner().invoke(main, [str(path), "--gpu", "h100", "--warps", "4"])
    assert found.output.endswith("\nframe_bytes = 12, stored_bytes = 12, end_stored_bytes = 4\n")
    # CTAs that share an SM start at any time of each other's turns: the mean of some.
    path.write_text(body(EXP, *[line("LDS.128 R4, [R1]", writes=0), line("FADD R3, R4, R5", 5, waits=1)] * 6, MEET))
    found = CliRunner().invoke(main, [str(path), "--gpu", "h100", "--warps", "4", "--residents", "2", "--together"])
    (loop,), memory = loops(*steps(path.read_text())), NearMemory.of(load_gpu("h100"), 2)
    alone = walked(loop, 1, memory=memory).cycles
    shared = [walked(loop, 1, memory=memory, turns=TURNS, ctas=2, apart=part * alone).cycles for part in STARTS]
    assert f"cycles = {alone:.0f}, work_cycles = {sum(shared) / len(shared):.0f}\n" in found.output
    assert min(shared) < max(shared)
    ptx = tmp_path / "kernel.ptx"
    stores = "$L__BB0_1: shl.b32 %r2, %r1, 7; ex2.f32 %f1, %f2; st.shared.b32 [%r2], %r9; bra $L__BB0_1;"
    ptx.write_text(f".entry k()\n.reqntid 32\n{{ mov.u32 %r1, %tid.x; {stores} }}")
    path.write_text(body(line("MUFU.EX2 R1, R2", 4), line("STS [R1], R2", writes=0), line("FADD R3, R4, R5", waits=1)))
    found = CliRunner().invoke(main, [str(path), "--gpu", "h100", "--warps", "4", "--ptx", str(ptx)])
    assert found.output == "cycles = 134, work_cycles = 134\nwaits = 0.0\n"  # 32 wavefronts of 4 cycles
    wrong = CliRunner().invoke(main, [str(path), "--gpu", "h100", "--warps", "4", "--loop", "3"])
    assert wrong.exit_code == 2
    assert "there is no loop 3: expected 0 to 0" in wrong.output
    (tmp_path / "binary.txt").write_bytes(b"\xff\x00")
    for arguments, words in (
        ([str(path), "--gpu", "h1000"], "did you mean 'h100'"),
        ([str(tmp_path / "binary.txt"), "--gpu", "h100"], "expected the output of nvdisasm -hex -c"),
        ([str(path), "--gpu", "h100", "--ptx", str(path)], "the PTX holds no kernel of a fixed number of threads"),
    ):
        wrong = CliRunner().invoke(main, [*arguments, "--warps", "4"])
        assert (wrong.exit_code, wrong.output.count("\n")) == (2, 1)
        assert words in wrong.output

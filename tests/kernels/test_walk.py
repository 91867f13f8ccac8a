"""Walks over machine code written by hand, cycle by cycle."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from attncast.errors import InputError
from attncast.kernels.walk import loops, main, serial_loads, steps, turn_cycles


def line(text: str, stall: int = 1, writes: int = 7, reads: int = 7, waits: int = 0) -> str:
    control = (stall | writes << 5 | reads << 8 | waits << 11) << 41
    return f"        /*0000*/   {text} ;   /* 0x0000000000000000 */\n      /* 0x{control:016x} */\n"


def body(*lines: str) -> str:
    return ".L_x_1:\n" + "".join(lines) + line("@P0 BRA `(.L_x_1)")


def only_loop(*lines: str):
    (found,) = loops(*steps(body(*lines)))
    return found


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
    alone, two, eight, sixteen = (turn_cycles(waits, warps) for warps in (1, 2, 8, 16))
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


def test_warps_meet_at_a_barrier():
    late = only_loop(line("MUFU.EX2 R1, R2", writes=0), line("BAR.SYNC 0x0", waits=1))
    assert turn_cycles(late, 2) >= 30 + 20


def test_text_without_encodings_is_refused():
    with pytest.raises(InputError, match="nvdisasm -hex"):
        steps("/*0000*/ MOV R1, R2 ;")


def test_the_command_prints_what_a_profile_takes(tmp_path):
    path = tmp_path / "kernel.txt"
    path.write_text(body(line("MUFU.EX2 R1, R2", 4), line("FADD R3, R4, R5", 6)))
    found = CliRunner().invoke(main, [str(path), "--warps", "4"])
    assert found.output == "cycles = 11, work_cycles = 11, waits = 0.0\n"
    wrong = CliRunner().invoke(main, [str(path), "--warps", "4", "--loop", "3"])
    assert wrong.exit_code != 0
    assert "there is no loop 3: expected 0 to 0" in wrong.output

"""Machine code written by hand, as nvdisasm -hex -c prints it."""

from __future__ import annotations

from attncast.kernels.straight import Step, loops, steps
from attncast.kernels.walk import walked


def line(text: str, stall: int = 1, writes: int = 7, reads: int = 7, waits: int = 0) -> str:
    control = (stall | writes << 5 | reads << 8 | waits << 11) << 41
    return f"        /*0000*/   {text} ;   /* 0x0000000000000000 */\n      /* 0x{control:016x} */\n"


def body(*lines: str) -> str:
    return ".L_x_1:\n" + "".join(lines) + line("@P0 BRA `(.L_x_1)")


def only_loop(*lines: str) -> list[Step]:
    (found,) = loops(*steps(body(*lines)))
    return list(found)


EXP, MEET = line("MUFU.EX2 R9, R8"), line("BAR.SYNC 0x0")


def turn_cycles(steps_of_loop: list[Step], warps: int, **more) -> float:
    return walked(steps_of_loop, warps, **more).cycles

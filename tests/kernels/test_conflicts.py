"""Addresses worked out from PTX written by hand."""

from __future__ import annotations

import pytest

from attncast.errors import InputError
from attncast.kernels.conflicts import access_of, repeated_loads, wavefronts


def kernel(*inside: str, before: tuple[str, ...] = (), threads: int = 64) -> str:
    lines = [
        f".entry k(.param .u64 k_param_0)\n.reqntid {threads}\n{{",
        "ld.param.b64 %rd1, [k_param_0];",
        "mov.u32 %r1, %tid.x;  // a thread",
        *before,
        "$L__BB0_1:",
        "\t.loc 1 2 3",
        "ex2.approx.ftz.f32 %f1, %f2;",
        *inside,
        "@%p9 bra $L__BB0_1;",
        "ret;",
        "}",
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("stride_bytes", "expected"),
    [(0, 1.0), (4, 1.0), (8, 2.0), (64, 16.0), (128, 32.0), (132, 1.0)],
)
def test_words_of_one_bank_follow_one_another(stride_bytes: int, expected: float) -> None:
    text = kernel(f"mul.lo.s32 %r2, %r1, {stride_bytes};", "st.shared.b32 [%r2+16], %r9;")
    assert wavefronts(text, 0) == {("store", 4): expected}


def test_bytes_of_one_word_do_not() -> None:
    assert wavefronts(kernel("st.shared.b8 [%r1], %r9;"), 0) == {("store", 1): 1.0}
    transposed = kernel("shl.b32 %r2, %r1, 6;", "st.shared.b8 [%r2], %r9;")  # columns 64 bytes apart
    assert wavefronts(transposed, 0) == {("store", 1): 16.0}


def test_wide_accesses_go_a_part_of_a_warp_at_a_time() -> None:
    text = kernel("shl.b32 %r2, %r1, 4;", "ld.shared.v4.b32 {%r3, %r4, %r5, %r6}, [%r2];")
    assert wavefronts(text, 0) == {("load", 16): 4.0}
    text = kernel("shl.b32 %r2, %r1, 7;", "ld.shared.v4.b32 {%r3, %r4, %r5, %r6}, [%r2];")
    assert wavefronts(text, 0) == {("load", 16): 32.0}


def test_a_swizzle_is_seen() -> None:
    rows = "and.b32 %r2, %r1, 7;", "shl.b32 %r3, %r2, 7;"
    plain = kernel(*rows, "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r3];")
    assert wavefronts(plain, 0) == {("matrix load", 16): 32.0}
    swizzled = (
        "shl.b32 %r8, %r2, 4;",
        "xor.b32 %r3, %r9, %r8;",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4}, [%r3];",
    )
    text = kernel("and.b32 %r2, %r1, 7;", "shl.b32 %r9, %r2, 7;", *swizzled)
    assert wavefronts(text, 0) == {("matrix load", 16): 4.0}


def test_a_predicate_leaves_lanes_and_warps_out() -> None:
    text = kernel("setp.lt.s32 %p1, %r1, 8;", "shl.b32 %r2, %r1, 7;", "@%p1 st.shared.b32 [%r2], %r9;")
    assert wavefronts(text, 0) == {("store", 4): 8.0}  # of the first warp; the second stores nothing


def test_what_selects_an_address_is_followed() -> None:
    chosen = (
        "and.b32 %r2, %r1, 1;",
        "setp.eq.b32 %p1, %r2, 0;",
        "selp.b32 %r3, 0, 128, %p1;",
        "st.shared.b32 [%r3], %r9;",
    )
    assert wavefronts(kernel(*chosen), 0) == {("store", 4): 2.0}
    logic = "lop3.b32 %r3, %r1, 31, 0, 0xc0;", "shl.b32 %r4, %r3, 2;", "st.shared.b32 [%r4], %r9;"
    assert wavefronts(kernel(*logic), 0) == {("store", 4): 1.0}
    fields = "bfe.u32 %r3, %r1, 3, 2;", "shl.b32 %r4, %r3, 7;", "st.shared.b32 [%r4], %r9;"
    assert wavefronts(kernel(*fields), 0) == {("store", 4): 4.0}


def test_loads_of_one_sector_are_there_after_the_first() -> None:
    address = "shl.b32 %r2, %r1, 3;", "cvt.u64.u32 %rd2, %r2;", "add.s64 %rd3, %rd1, %rd2;"
    loads = "ld.global.b64 %rd4, [%rd3];", "ld.global.b64 %rd5, [%rd3+4096];", "ld.global.b64 %rd6, [%rd3];"
    assert repeated_loads(kernel(*address, *loads), 0) == [(8, False), (8, False), (8, True)]


@pytest.mark.parametrize(("opcode", "size"), [("b8", 1), ("b16", 2), ("b32", 4), ("v2.b64", 16), ("v4.b32", 16)])
def test_loads_are_told_with_their_bytes(opcode: str, size: int) -> None:
    assert repeated_loads(kernel(f"ld.global.{opcode} %rd4, [%rd1];"), 0) == [(size, False)]


def test_a_sector_is_there_whichever_warp_has_asked_for_it() -> None:
    near = "shl.b32 %r2, %r1, 3;", "cvt.u64.u32 %rd2, %r2;", "add.s64 %rd3, %rd1, %rd2;"  # 8 bytes a thread
    turned = "xor.b32 %r3, %r1, 32;", "shl.b32 %r4, %r3, 3;", "cvt.u64.u32 %rd4, %r4;", "add.s64 %rd5, %rd1, %rd4;"
    loads = "ld.global.b64 %rd6, [%rd3];", "ld.global.b64 %rd7, [%rd5];"  # the second warp's sectors, and the first's
    assert repeated_loads(kernel(*near, *turned, *loads), 0) == [(8, False), (8, True)]


def test_what_follows_a_scope_of_inline_assembly_is_read() -> None:
    scope = "{\n.reg .b16 a;", "mov.b16 a, %rs1;", "}\nshl.b32 %r2, %r1, 7;"
    assert wavefronts(kernel("st.shared.b32 [%r2], %r9;", before=scope), 0) == {("store", 4): 32.0}


def test_loads_from_where_the_loop_is_told_are_not() -> None:
    address = "cvt.u64.u32 %rd2, %r1;", "add.s64 %rd3, %rd1, %rd2;", "ld.global.b64 %rd4, [%rd3];"
    told = "add.s64 %rd5, %rd1, %rd4;", "ld.global.b64 %rd6, [%rd5];", "ld.global.b64 %rd7, [%rd5];"
    assert repeated_loads(kernel(*address, *told), 0) == [(8, False)] * 3


def test_opcodes_of_the_machine_say_which_access_they_are() -> None:
    opcodes = ("STS", "LDS.64", "LDS.U16", "STSM.16.M88.4", "LDSM.16.M88.2", "LDSM.16.MT88", "LDL.64", "FADD")
    assert [access_of(opcode) for opcode in opcodes] == [
        ("store", 4),
        ("load", 8),
        ("load", 2),
        ("matrix store", 16),
        ("matrix load", 8),
        ("matrix load", 4),
        ("", 0),
        ("", 0),
    ]


def test_text_without_a_kernel_or_the_loop_is_refused() -> None:
    with pytest.raises(InputError, match="no kernel of a fixed number of threads"):
        wavefronts("mov.u32 %r1, %tid.x;", 0)
    with pytest.raises(InputError, match="no loop 2: expected 0 to 0"):
        wavefronts(kernel(), 2)
    with pytest.raises(InputError, match="no loop 1: expected 0 to 0"):
        repeated_loads(kernel(), 1)

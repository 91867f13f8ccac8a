"""Reading SASS and PTX: jumps, pipes, matrix instructions, loops."""

from __future__ import annotations

import pytest

from attncast.kernels.flow import find_loops, steady_blocks
from attncast.kernels.loops import Tile, analyse
from attncast.kernels.ptx import PTX, parse_ptx
from attncast.kernels.sass import count_mma, count_pipes, parse_sass, pipe_of, tcgen05_shape
from attncast.kernels.ttgir import GpuIr, read_ttgir


def sass(*lines: str) -> str:
    """Lay lines out as nvdisasm does; lines that end in a colon are labels."""
    out = ["\t.target\tsm_90a", ".text.other:", "        /*0000*/   EXIT ;", ".text.kernel:"]
    address = 0
    for line in lines:
        if line.endswith(":"):
            out.append(line)
        else:
            out.append(f"        /*{address:04x}*/                   {line} ;")
            address += 16
    return "\n".join(out)


@pytest.mark.parametrize(
    ("opcode", "pipe"),
    [
        ("HMMA.16816.F32.BF16", "tensor"),
        ("HGMMA.64x128x16.F32.BF16", "tensor"),
        ("UTCHMMA", "tensor"),
        ("MUFU.EX2", "exp"),
        ("MUFU.RCP", "special"),
        ("FFMA2", "fp32"),
        ("FMNMX3", "select"),
        ("F2FP.BF16.F32.PACK_AB", "convert"),
        ("FSETP.GEU.AND", "select"),
        ("IMAD.MOV.U32", "move"),
        ("IMAD.WIDE.U32", "integer"),
        ("LDGSTS.E.BYPASS.128", "global"),
        ("LDGDEPBAR", "barrier"),
        ("LDSM.16.M88.4", "shared"),
        ("LDL.LU", "local"),
        ("LDC.64", "constant"),
        ("LDTM.x64", "tmem"),
        ("ULDC.64", "constant"),
        ("UIADD3", "uniform"),
        ("UTMALDG.2D", "global"),
        ("UTCBAR", "barrier"),
        ("SYNCS.PHASECHK.TRANS64.TRYWAIT", "barrier"),
        ("R2UR", "move"),
        ("BRA.U", "control"),
        ("ZZZ", "other"),
    ],
)
def test_pipe_of(opcode: str, pipe: str) -> None:
    assert pipe_of(opcode) == pipe


def test_the_loop_is_found_by_its_back_edge_and_the_spin_left_out() -> None:
    flow = parse_sass(
        sass(
            "MOV R1, c[0x0][0x28]",
            ".L_x_1:",
            "SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR6], R4",
            "@!P1 BRA `(.L_x_3)",
            ".L_x_2:",
            "HGMMA.64x64x16.F32.BF16 R88, gdesc[UR28], RZ, !UPT",
            "HGMMA.64x128x16.F32.BF16 R24, R132, gdesc[UR24].tnspB, R24, gsb0",
            "MUFU.EX2 R5, R5",
            "@P0 BRA `(.L_x_1)",
            "EXIT",
            ".L_x_3:",
            "SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR6], R4",
            "@!P1 BRA `(.L_x_3)",
            "BRA `(.L_x_2)",
        ),
        "kernel",
    )
    (loop,) = find_loops(flow)
    blocks = steady_blocks(flow, loop)
    assert count_pipes(flow, blocks) == {"tensor": 2, "exp": 1, "barrier": 1, "control": 2}
    assert {str(mma): n for mma, n in count_mma(flow, blocks).items()} == {
        "wgmma m64n64k16": 1,
        "wgmma m64n128k16": 1,
    }


def test_a_far_loop_exit_written_as_a_call_is_a_branch() -> None:
    # ptxas for sm_80 leaves long loops so.
    flow = parse_sass(
        sass(".L_x_1:", "MUFU.EX2 R5, R5", "@!P2 CALL.REL.NOINC `(.L_x_0)", "BRA `(.L_x_1)", ".L_x_0:", "EXIT"),
        "kernel",
    )
    (loop,) = find_loops(flow)
    assert count_pipes(flow, loop.blocks) == {"exp": 1, "control": 2}


def test_a_branch_table_is_followed() -> None:
    flow = parse_sass(
        sass(
            'BRX R2 -0xe6b0 (*"BRANCH_TARGETS .L_x_1,.L_x_2"*)',
            ".L_x_1:",
            "MUFU.EX2 R5, R5",
            "@P0 BRA `(.L_x_1)",
            "EXIT",
            ".L_x_2:",
            "HMMA.16816.F32 R0, R0, R0, R0",
            "@P0 BRA `(.L_x_2)",
            "EXIT",
        ),
        "kernel",
    )
    assert len(find_loops(flow)) == 2


def test_the_shape_of_tcgen05_is_looked_up_through_the_code() -> None:
    assert tcgen05_shape(0x8100490) == (128, 64)
    lines = (
        "UMOV UR39, 0x8200490",
        ".L_x_1:",
        "UTCHMMA gdesc[UR8], gdesc[UR16], tmem[UR13], tmem[UR38], idesc[UR39], !UPT",
        "{}",
        "@P1 BRA `(.L_x_1)",
        "EXIT",
    )
    for between, shape in (("NOP", "m128n128k16"), ("UIADD3 UR39, UR39, 0x1, URZ", "m0n0k16")):
        flow = parse_sass(sass(*(line.format(between) for line in lines)), "kernel")
        (loop,) = find_loops(flow)
        assert [str(mma) for mma in count_mma(flow, loop.blocks)] == [f"tcgen05 {shape}"]


def test_no_code_is_an_error() -> None:
    with pytest.raises(ValueError, match="no SASS of function 'nothing'"):
        parse_sass(sass("EXIT"), "nothing")


def test_counts_are_per_kv_tile_when_the_loop_is_unrolled() -> None:
    # 16 x 16 scores, head dim 16, one warp: QK^T takes 2 HMMA.16816, PV 2.
    tile = Tile(16, 16, 16, 16)
    one_tile = ["HMMA.16816.F32.BF16 R0, R0, R0, R0"] * 4 + ["MUFU.EX2 R5, R5"] * 9
    flow = parse_sass(sass(".L_x_1:", *one_tile, *one_tile, "@P0 BRA `(.L_x_1)", "EXIT"), "kernel")
    report = analyse(flow, tile, GpuIr((1, 1), ()), warps=1, names=["full"])
    (loop,) = report.loops
    assert (loop.tiles_per_trip, loop.mma_flop, loop.exp) == (2, tile.mma_flop, 9 * 32)
    assert loop.exp_corrections_per_row == 2
    assert loop.instructions["tensor"] == 4
    assert not report.notes


def test_a_loop_count_that_does_not_match_the_source_is_told() -> None:
    flow = parse_sass(sass("MUFU.EX2 R5, R5", "EXIT"), "kernel")
    report = analyse(flow, Tile(16, 16, 16, 16), GpuIr((), ()), warps=1, names=["full", "partial"])
    assert not report.loops
    assert report.notes == ("the kernel has 2 KV loops in its source, the code has 0",)


PTX_TEXT = """
.visible .entry kernel(.param .u64 p)
{
	.reg .pred %p<9>;
	mov.b32 %r9, 135267472;
$L__BB0_1:                              // =>This Inner Loop Header
	.loc	1 215 30
	ex2.approx.ftz.f32 %f1, %f2;
	// begin inline asm
	{
	.reg .pred complete;
	waitLoop:
	mbarrier.try_wait.parity.shared.b64 complete, [%r1], %r2;
	@!complete bra.uni waitLoop;
	}
	// end inline asm
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
	{ %f1, %f2, %f3, %f4 }, { %r1, %r2, %r3, %r4 }, { %r5, %r6 }, { %f1, %f2, %f3, %f4 };
	@%p30 tcgen05.mma.cta_group::1.kind::f16 [ %r1218 + 0 ], %rd61, %rd62, %r9, %p29;
	@%p1 bra $L__BB0_1;
	ret;
}
"""


def test_ptx_stands_in_for_sass() -> None:
    flow = parse_ptx(PTX_TEXT)
    (loop,) = find_loops(flow)
    blocks = steady_blocks(flow, loop)
    assert count_pipes(flow, blocks, PTX) == {"tensor": 2, "exp": 1, "barrier": 1, "control": 2}
    assert {str(mma) for mma in count_mma(flow, blocks, PTX)} == {"mma.sync m16n8k16", "tcgen05 m128n64k16"}


def test_warp_layouts_tell_repeated_work() -> None:
    text = """
#mma = #ttg.nvidia_mma<{versionMajor = 3, versionMinor = 0, warpsPerCTA = [8, 1], instrShape = [16, 64, 16]}>
module attributes {"ttg.num-warps" = 8 : i32} {
  %a = ttng.warp_group_dot %q, %k, %c : !ttg.memdesc<64x128xbf16> -> tensor<64x64xf32, #mma> loc(#loc1)
  %b = tt.dot %p, %v, %c : tensor<128x64xbf16> * tensor<64x64xbf16> -> tensor<128x64xf32, #mma>
"""
    assert read_ttgir(text).copies == (2, 1)

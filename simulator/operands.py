"""Where the operands of a kernel come from: what it asks the L2 and DRAM for, and how long a load takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..hwmodels import GPU
from . import memory, pipes
from .calls import Calls
from .cta_life import OUTPUT_BYTES
from .profile import KernelProfile
from .tile_shape import TileShape
from .tiles import Floats


def traffic_of(
    gpu: GPU, profile: KernelProfile, c: Calls, shape: TileShape, tile_bytes: Floats, tiles_visited: Floats,
    q_tiles: Floats, head_groups: Floats, partial: Floats, swept: memory.Sweeps | None,
    in_flight: Floats,
) -> memory.Traffic:  # fmt: skip
    """What each call moves; ``partial`` bytes of split keys' results among it (see memory.traffic).

    ``in_flight`` CTAs of an SM hold the registers that they spill in the L2; a tile that is only looked at stores few.
    """
    per_key = (c.dim + c.dim_v) * c.kv_bytes
    issued_per_key = (c.dim + c.dim_v / c.value_parts) * c.kv_bytes
    spilled: Floats | float = 0.0
    if c.spill_bytes.any():
        # A fiber of scores that fits half of an SM's shared memory stays there between passes.
        stays = shape.rows * c.keys * 0.5 * c.spill_bytes <= 0.5 * gpu.smem_bytes_per_cta
        scores = tiles_visited * head_groups * shape.rows * shape.keys
        spilled = np.where(stays, 0.0, scores * c.spill_bytes)
    touched = _touched(c, tiles_visited * shape.keys)
    found = memory.traffic(
        gpu,
        query_bytes=c.batch * c.heads * c.queries * c.dim * c.query_bytes + spilled + _index_bytes(profile, c, touched),
        output_bytes=c.batch * c.heads * c.queries * c.dim_v * np.maximum(c.query_bytes, OUTPUT_BYTES),
        kv_head_bytes=touched * per_key,
        kv_heads=c.batch * c.kv_heads,
        ctas_per_kv_head=q_tiles * head_groups / (c.batch * c.kv_heads),
        # A ragged last tile loads only the keys that exist; exact for one Q tile, where it matters.
        kv_issued_bytes=head_groups * np.where(q_tiles > 1, tiles_visited * tile_bytes, touched * issued_per_key),
        warm=c.warm,
        kv_dram_bytes=None if swept is None else swept.dram_bytes,
        partial_bytes=partial,
    )
    if not c.frame_bytes.any():
        return found
    ctas = q_tiles * head_groups
    held = np.minimum(ctas, gpu.sms * in_flight) * c.threads * c.frame_bytes
    stored = c.threads * (ctas * c.end_stored_bytes + tiles_visited * head_groups * c.stored_bytes)
    written = memory.written_back(gpu, held, stored)
    return replace(found, dram_bytes=found.dram_bytes + written, register_bytes=written)


def _touched(c: Calls, visited: Floats) -> Floats:
    """Keys of a key head that are read at all, of those that its Q tiles visit: neighbouring ones visit the same."""
    return np.minimum(np.minimum(c.keys, visited), c.span + 2.0 * c.tile_kv)  # its first and last tile are whole


def _index_bytes(profile: KernelProfile, c: Calls, touched: Floats) -> Floats:
    """Bytes that tell where the cached ones of the ``touched`` keys of each sequence lie."""
    return c.batch * np.minimum(touched, c.keys - c.queries) * profile.serving.index_bytes


def sweeps_of(
    gpu: GPU, profile: KernelProfile, c: Calls, shape: TileShape, visits: Floats, longest: Floats, in_flight: Floats,
    partial: Floats,
) -> memory.Sweeps:  # fmt: skip
    """What reaches DRAM of the keys and values of calls whose Q tiles are the slowest axis of the grid; ``partial`` as in
    ``traffic_of``."""
    per_key = (c.dim + c.dim_v) * c.kv_bytes
    touched = np.minimum(c.keys, longest * c.tile_kv)
    kv_heads = c.batch * c.kv_heads
    around = c.batch * c.heads * c.queries * (c.dim * c.query_bytes + c.dim_v * np.maximum(c.query_bytes, OUTPUT_BYTES))
    unique = kv_heads * _touched(c, visits / kv_heads * c.tile_kv) * per_key
    beside = around + _index_bytes(profile, c, touched) + partial
    cold = 1.0 - memory.resident_share(gpu, unique + beside, c.warm)
    issued = np.maximum(visits * pipes.l2_bytes_per_tile(profile, shape), unique)
    return memory.sweeps(
        gpu, issued, unique, kv_heads * touched * per_key, c.batch, c.heads, c.kv_heads, gpu.sms * in_flight, cold
    )


def loading(
    gpu: GPU,
    profile: KernelProfile,
    c: Calls,
    shape: TileShape,
    longest: Floats,
    partial: Floats,
    swept: memory.Sweeps | None,
) -> TileShape:
    """The tile with what a CTA waits for."""
    touched = np.minimum(c.keys, longest * c.tile_kv)  # of a decoding call: its one Q tile visits no more
    per_key = c.kv_heads * (c.dim + c.dim_v) * c.kv_bytes + profile.serving.index_bytes
    beside = c.heads * (c.dim + c.dim_v) * np.maximum(c.query_bytes, OUTPUT_BYTES)  # queries and output
    decodes = profile.decodes(c.queries, c.keys - c.queries)
    prompts = 1.0 if swept is None else swept.from_l2
    cached = c.batch * (touched * per_key + beside) + partial
    # A tile's loads are there when the last of its many lines is. Of what exceeds the whole L2, DRAM has some of every tile.
    whole = cached <= gpu.l2_bytes
    from_l2 = np.where(decodes, memory.resident_share(gpu, cached, c.warm) * whole, prompts)
    latency_s = memory.latency_seconds(gpu, from_l2)
    compiled = {name: getattr(c, name) for name in pipes.COMPILED}
    resident = np.where(decodes, 0.0, c.in_flight)  # what a decoding SM's CTAs take together was walked
    return replace(shape, tests=c.tests, latency_s=latency_s, resident=resident, **compiled)

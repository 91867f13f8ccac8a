"""Block lists: per Q tile the KV blocks to visit, full and partial apart, as FlexAttention's BlockMask has
them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ..errors import InputError

# What a masked block costs in full ones, in halves: it only decides which Q tile goes first.
_FULL_WEIGHT, _PARTIAL_WEIGHT = 2, 3


@dataclass(frozen=True)
class BlockLists:
    """Which KV blocks each Q block visits. Every tensor is int32 and contiguous, all on one device.

    ``full_count`` and ``part_count`` [b, h, Q blocks] say how many; ``full_index`` and ``part_index`` [b, h,
    Q blocks, width] which (entries past the count are ignored). b is 1 or the batch, h 1 or the query heads.
    ``order`` [b, h, Q blocks] lists the Q blocks with most work first. Partial blocks can carry packed masks:
    ``part_bits`` beside ``part_index`` says which row of ``bits`` [masks, block_q, block_kv / 32]; bit j of a
    word is key 32 * word + j. ``block`` is (tokens of a Q block, tokens of a KV block), ``lengths`` (queries,
    keys). With ``by_key`` the roles are swapped: per KV block the Q blocks that visit it; ``block``,
    ``lengths`` and the packed masks stay [query, key].
    """

    full_count: torch.Tensor
    full_index: torch.Tensor
    part_count: torch.Tensor
    part_index: torch.Tensor
    order: torch.Tensor
    block: tuple[int, int]
    lengths: tuple[int, int]
    part_bits: torch.Tensor | None = None
    bits: torch.Tensor | None = None
    by_key: bool = False

    def __post_init__(self) -> None:
        for name in ("full_count", "full_index", "part_count", "part_index", "order", "part_bits", "bits"):
            tensor = getattr(self, name)
            if tensor is not None and (tensor.dtype != torch.int32 or not tensor.is_contiguous()):
                raise InputError(f"{name}: expected a contiguous int32 tensor, got {tensor.dtype}")
        rows = -(-self.lengths[self.by_key] // self.block[self.by_key])
        if self.full_count.shape[2:] != (rows,) or self.part_count.shape != self.full_count.shape:
            raise InputError(
                f"full_count: expected [batch, heads, {rows}], for {self.lengths[self.by_key]} tokens in "
                f"blocks of {self.block[self.by_key]}, got {tuple(self.full_count.shape)}"
            )
        if (self.bits is None) != (self.part_bits is None):
            raise InputError("bits: expected together with part_bits, or neither")

    # Cached: on a GPU asking means waiting for it.
    @cached_property
    def has_full(self) -> bool:
        return bool(self.full_count.any())

    @cached_property
    def has_partial(self) -> bool:
        return bool(self.part_count.any())

    def to(self, device: torch.device | str) -> BlockLists:
        """Return the lists on another device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **moved)

    @staticmethod
    def from_maps(
        live: torch.Tensor, full: torch.Tensor, block: tuple[int, int], lengths: tuple[int, int]
    ) -> BlockLists:
        """Build the lists from two bool maps [(batch, heads,) Q blocks, KV blocks]: visited, and visited
        without a mask.

        A block that reaches past the last key is made partial, whatever ``full`` says.
        """
        live, full = (_four_dims(t) for t in (live, full))
        inside = (torch.arange(live.shape[-1], device=live.device) + 1) * block[1] <= lengths[1]
        full = full & live & inside
        full_count, full_index = _compress(full)
        part_count, part_index = _compress(live & ~full)
        order = _longest_first(full_count, part_count)
        return BlockLists(full_count, full_index, part_count, part_index, order, block, lengths)

    @staticmethod
    def from_mask(mask: torch.Tensor, block: tuple[int, int]) -> BlockLists:
        """Build lists with packed masks from a bool mask [(batch, heads,) queries, keys]; equal blocks share
        their bits.

        ``block`` (Q, KV): KV a multiple of 32.
        """
        if mask.dtype != torch.bool:
            raise InputError(f"mask: expected a bool tensor, got {mask.dtype}")
        if block[1] % 32:
            raise InputError(f"block={block}: expected KV blocks of a multiple of 32 tokens, to pack their masks")
        mask = _four_dims(mask)
        queries, keys = mask.shape[2:]
        rows, columns = -(-queries // block[0]), -(-keys // block[1])
        pad = (0, columns * block[1] - keys, 0, rows * block[0] - queries)
        # A padded query agrees with anything, so it neither makes a block live nor keeps it from being full.
        cells = _cells(torch.nn.functional.pad(mask, pad), rows, columns, block)
        live = cells.any(-1).any(-1)
        real_rows = (torch.arange(rows * block[0], device=mask.device) < queries).view(1, 1, rows, 1, block[0], 1)
        full = (cells | ~real_rows).all(-1).all(-1)
        lists = BlockLists.from_maps(live, full, block, (queries, keys))
        blocks = lists.part_index.long()
        used = torch.arange(blocks.shape[-1], device=mask.device) < lists.part_count[..., None]
        at = used.nonzero(as_tuple=True)
        part_bits = torch.zeros_like(lists.part_index)
        words = torch.zeros((1, block[0], block[1] // 32), dtype=torch.int32, device=mask.device)
        if at[0].numel():
            packed = _pack(cells[at[0], at[1], at[2], blocks[at]])
            words, which = torch.unique(packed, dim=0, return_inverse=True)
            part_bits[at] = which.int()
        return replace(lists, part_bits=part_bits.contiguous(), bits=words.contiguous())

    @staticmethod
    def from_flex(block_mask: Any) -> BlockLists:
        """Take over a FlexAttention ``BlockMask``. Its ``mask_mod`` is Python: give ``attention`` a Triton
        mask instead.
        """
        queries, keys = block_mask.shape[2:]
        block = tuple(block_mask.BLOCK_SIZE)
        columns = -(-keys // block[1])
        live = _expand(block_mask.kv_num_blocks, block_mask.kv_indices, columns)
        full = torch.zeros_like(live)
        if block_mask.full_kv_num_blocks is not None:
            full = _expand(block_mask.full_kv_num_blocks, block_mask.full_kv_indices, columns)
        return BlockLists.from_maps(live | full, full, (block[0], block[1]), (queries, keys))

    def maps(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (live, full), the bool maps [b, h, rows, columns] that the lists stand for."""
        columns = -(-self.lengths[not self.by_key] // self.block[not self.by_key])
        full = _expand(self.full_count, self.full_index, columns)
        return full | _expand(self.part_count, self.part_index, columns), full

    def transposed(self) -> BlockLists:
        """Return the same blocks listed the other way round (see ``by_key``), for the gradients of keys and
        values.
        """
        live, full = (m.transpose(-1, -2) for m in self.maps())
        full_count, full_index = _compress(full)
        part_count, part_index = _compress(live & ~full)
        part_bits = None
        if self.part_bits is not None:
            which = torch.zeros(live.shape, dtype=torch.int32, device=live.device).transpose(-1, -2).contiguous()
            used = torch.arange(self.part_index.shape[-1], device=live.device) < self.part_count[..., None]
            b, h, q, slot = used.nonzero(as_tuple=True)
            which[b, h, q, self.part_index[b, h, q, slot].long()] = self.part_bits[b, h, q, slot]
            part_bits = which.transpose(-1, -2).gather(-1, part_index.long()).contiguous()
        order = _longest_first(full_count, part_count)
        return BlockLists(
            full_count, full_index, part_count, part_index, order, self.block, self.lengths, part_bits,
            self.bits, by_key=not self.by_key,
        )  # fmt: skip


def _four_dims(table: torch.Tensor) -> torch.Tensor:
    return table[None, None] if table.dim() == 2 else table


def _cells(mask: torch.Tensor, rows: int, columns: int, block: tuple[int, int]) -> torch.Tensor:
    b, h = mask.shape[:2]
    return mask.view(b, h, rows, block[0], columns, block[1]).transpose(3, 4)


def _pack(blocks: torch.Tensor) -> torch.Tensor:
    """Pack bool [n, q, kv] into int32 [n, q, kv / 32]."""
    n, rows, columns = blocks.shape
    shifts = torch.arange(32, device=blocks.device)
    words = (blocks.view(n, rows, columns // 32, 32).long() << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def _compress(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    count = table.sum(-1, dtype=torch.int32)
    width = max(1, int(count.max())) if count.numel() else 1
    index = torch.zeros((*count.shape, width), dtype=torch.int32, device=table.device)
    b, h, row, column = table.nonzero(as_tuple=True)
    slot = (table.cumsum(-1) - 1)[b, h, row, column]
    index[b, h, row, slot] = column.int()
    return count.contiguous(), index


def _expand(count: torch.Tensor, index: torch.Tensor, columns: int) -> torch.Tensor:
    table = torch.zeros((*count.shape, columns), dtype=torch.bool, device=count.device)
    used = torch.arange(index.shape[-1], device=count.device) < count[..., None]
    b, h, row, slot = used.nonzero(as_tuple=True)
    table[b, h, row, index[b, h, row, slot].long()] = True
    return table


def _longest_first(full_count: torch.Tensor, part_count: torch.Tensor) -> torch.Tensor:
    work = _FULL_WEIGHT * full_count + _PARTIAL_WEIGHT * part_count
    return work.argsort(dim=-1, descending=True, stable=True).int().contiguous()

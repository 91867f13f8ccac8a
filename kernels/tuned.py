"""Tuned configurations, looked up when a kernel is launched: the user's files first, then those that come with attncast.

A file is named and laid out as serving engines keep theirs: one for each kernel, GPU and dtype, and in it for each group
of problems the configurations by size, the nearest of which is used::

    kernel=triton,device_name=NVIDIA_H100_80GB_HBM3,dtype=bf16.json
    {"triton_version": "3.9.0", "head_dim=128,pattern=causal": {"98304": {"BLOCK_M": 128, ..., "num_warps": 8}}}

The size is the query rows of the call, batch x heads x tokens: what is dealt out over the SMs. The user's files are those
in ``tuned`` of cache.py's folder; ``attncast tune -f serving`` writes them. Each is read once in a process. No torch here.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ..errors import InputError
from ..hwmodels import GPU, load_gpu
from .attention_spec import ForwardConfig, padded
from .cache import cache_dir

PACKAGED: Final = Path(__file__).with_name("tuned")
#: Pattern families: three kinds of bands, and lists of blocks. Lists with packed masks are none: nobody tunes them yet.
FAMILIES: Final = ("dense", "causal", "window", "blocks")
#: What torch calls each GPU: the ``device_name`` of a file's name. Others go by the name of their hardware model.
DEVICE_NAMES: Final = {
    "a100": "NVIDIA A100-SXM4-80GB",
    "a100-pcie": "NVIDIA A100 80GB PCIe",
    "h100": "NVIDIA H100 80GB HBM3",
    "h100-pcie": "NVIDIA H100 PCIe",
    "h200": "NVIDIA H200",
    "b200": "NVIDIA B200",
    "gb200": "NVIDIA GB200",
    "b300": "NVIDIA B300 SXM6 AC",
    "rtx5090": "NVIDIA GeForce RTX 5090",
    "rtx-pro-6000": "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
    "rtx4090": "NVIDIA GeForce RTX 4090",
    "l40s": "NVIDIA L40S",
}
#: Dtypes of one size and one MMA rate: a file for the other serves where a dtype has none.
_TWINS: Final = {"fp16": "bf16", "bf16": "fp16"}
_NAME: Final = re.compile(r"kernel=triton,device_name=([^,]+),dtype=([^,]+)\.json")
#: A launch's knobs as files have them, and as ForwardConfig does.
KNOBS: Final = {
    "BLOCK_M": "block_m",
    "BLOCK_N": "block_n",
    "num_warps": "num_warps",
    "num_stages": "num_stages",
    "USE_TMA": "use_tma",
    "WARP_SPECIALIZE": "warp_specialize",
    "maxnreg": "maxnreg",
}

Groups = Mapping[str, Any]


def user_dir() -> Path:
    """Where the user's tuned files live."""
    return cache_dir() / "tuned"


def file_name(kernel: str, gpu: GPU, dtype: str) -> str:
    """The name of a tuned file."""
    device = DEVICE_NAMES.get(gpu.key, gpu.name).replace(" ", "_").replace(",", "")
    return f"kernel={kernel},device_name={device},dtype={dtype}.json"


def group_name(head_dim: int, family: str) -> str:
    """The key of a group of problems inside a file."""
    return f"head_dim={head_dim},pattern={family}"


def family_of(left: int | None, right: int | None, lists: bool = False) -> str:
    """The family of a band (None: no limit on that side), or of block lists."""
    if lists:
        return "blocks"
    if left is None:
        return "dense" if right is None else "causal" if right == 0 else "window"
    return "window"


def forward_config(entry: Mapping[str, Any]) -> ForwardConfig:
    """Read one configuration of a file.

    Raises InputError, naming the knob, where it holds one that the kernel does not have or a value out of range.
    """
    for knob, value in entry.items():
        if knob not in KNOBS:
            raise InputError(f"knob {knob!r}: expected {', '.join(KNOBS)}")
        kind = bool if knob.isupper() and not knob.startswith("BLOCK") else int
        if type(value) is not kind:
            raise InputError(f"{knob}={value!r}: expected a value of type {kind.__name__}")
    return ForwardConfig(**{KNOBS[knob]: value for knob, value in entry.items()})


def nearest(sizes: Mapping[str, Any], rows: int) -> str:
    """The size nearest to ``rows`` by ratio, the smaller of two equally near. Raises InputError for a size that is none."""
    for size in sizes:
        if not (size.isascii() and size.isdecimal() and int(size) > 0):
            raise InputError(f"size {size!r}: expected a whole number of query rows")
    if not sizes:
        raise InputError("a group without sizes: expected one or more")
    return min(sizes, key=lambda size: (abs(math.log(int(size) / max(rows, 1))), int(size)))


@lru_cache(maxsize=4096)
def lookup(device: str, dtype: str, head_dim: int, family: str, rows: int) -> ForwardConfig | None:
    """The tuned configuration of our attention kernel for a call, or None when no file speaks of such calls.

    ``device`` as torch names the GPU (or a key of hwmodels), ``dtype`` "bf16", "fp16", "fp8" or "fp32", ``head_dim`` the
    larger of keys' and values', ``family`` one of ``FAMILIES``, ``rows`` batch x heads x query tokens. In this order: the
    user's files, the packaged ones for this GPU, the packaged ones for a GPU of the same architecture. A head dim of its
    own goes before the power of two that the kernel pads it to, a dtype before its 16-bit twin. An entry that cannot be
    used is left out with a warning; packaged ones that are warp specialised are passed over.
    """
    try:
        gpu = load_gpu(device)
    except InputError:
        return None
    for groups, path in _sources(gpu, dtype):
        for dim in dict.fromkeys((head_dim, padded(head_dim))):
            sizes = groups.get(group_name(dim, family))
            if sizes is None:
                continue
            try:
                found = forward_config(sizes[nearest(sizes, rows)])
            except (InputError, TypeError, AttributeError) as error:
                _left_out(path, error)
                continue
            # A default that everybody gets does not turn on what never ran here and changes with every release of Triton.
            if not (found.warp_specialize and path.parent == PACKAGED):
                return found
    return None


def _sources(gpu: GPU, dtype: str) -> Iterator[tuple[Groups, Path]]:
    """The groups of every file that may speak of a GPU and dtype, best first."""
    own = [(user_dir(), gpu.key), (PACKAGED, gpu.key)]
    kin = [(PACKAGED, key) for key in _same_architecture(gpu.key, gpu.arch)]
    for folder, key in (*own, *kin):
        for wanted in (dtype, _TWINS.get(dtype)):
            for path in _files(folder).get((key, wanted), ()):
                yield _read(path), path


def _same_architecture(key: str, arch: str) -> list[str]:
    """Other GPUs of this architecture that have packaged files."""
    return sorted({gpu for gpu, _ in _files(PACKAGED) if gpu != key and load_gpu(gpu).arch == arch})


@lru_cache(maxsize=8)
def _files(folder: Path) -> dict[tuple[str, str | None], list[Path]]:
    """Tuned files in a folder by GPU and dtype; names that are not theirs, or of unknown GPUs, are passed over."""
    found: dict[tuple[str, str | None], list[Path]] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return found
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        try:
            gpu = load_gpu(match[1].replace("_", " "))
        except InputError:
            continue
        found.setdefault((gpu.key, match[2]), []).append(path)
    return found


@lru_cache(maxsize=64)
def _read(path: Path) -> Groups:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        _left_out(path, error)
        return {}
    if not isinstance(document, dict):
        _left_out(path, TypeError("expected an object"))
        return {}
    return {name: value for name, value in document.items() if isinstance(value, dict)}


def _left_out(path: Path, error: Exception) -> None:
    warnings.warn(f"tuned file {str(path)!r} is not used: {error}", RuntimeWarning, stacklevel=4)


def forget() -> None:
    """Read the files again at the next launch."""
    for cached in (lookup, _files, _read):
        cached.cache_clear()

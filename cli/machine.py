"""What this machine has: GPUs, a compiler, caches that can be written. Nothing heavy is imported to find out."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from ..errors import InputError
from ..hwmodels import load_gpu

_SMI_TIMEOUT_S: Final = 5.0  # it takes tenths of a second, or hangs with a broken driver
_PTXAS_TIMEOUT_S: Final = 5.0
_PTX: Final = ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry probe() { ret; }\n"
#: Assemblers of Triton's wheel, by the setting that names another and an architecture they know.
_ASSEMBLERS: Final = {
    "ptxas": ("TRITON_PTXAS_PATH", "sm_90"),
    "ptxas-blackwell": ("TRITON_PTXAS_BLACKWELL_PATH", "sm_100"),
}


@dataclass(frozen=True)
class Device:
    """A GPU here: what it calls itself, its driver, its memory, and the name of its hardware model (None: there is none)."""

    name: str
    driver: str
    memory_bytes: float
    model: str | None


@dataclass(frozen=True)
class Assembler:
    """A ptxas: where it is, and whether it assembled a kernel; ``problem`` says what it said otherwise."""

    name: str
    path: str
    works: bool
    problem: str = ""


def devices() -> tuple[list[Device], str]:
    """The GPUs of this machine in the driver's order, and who was asked: NVML, nvidia-smi, or why nobody could be."""
    asked: list[str] = []
    for source, ask in (("NVML", _by_nvml), ("nvidia-smi", _by_smi)):
        answer = ask()
        if isinstance(answer, list) and answer:
            return [Device(name, driver, size, model_of(name)) for name, driver, size in answer], source
        asked.append(answer if isinstance(answer, str) else f"{source} sees none")
    return [], "; ".join(asked)


def model_of(name: str) -> str | None:
    """The hardware model of a GPU by the name that its driver gives it; None where there is none."""
    try:
        # A name from a driver is never a file's.
        return None if re.search(r"[/\\]|\.toml$", name) else load_gpu(name).key
    except InputError:
        return None


_Found = list[tuple[str, str, float]]


def _by_nvml() -> _Found | str:
    try:
        pynvml = import_module("pynvml")
    except ImportError:
        return "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [
            (_text(pynvml.nvmlDeviceGetName(handle)), driver, float(pynvml.nvmlDeviceGetMemoryInfo(handle).total))
            for handle in handles
        ]
    except Exception as problem:  # no driver, a driver of another version: each has a class of its own
        return f"NVML says: {problem}"


def _by_smi() -> _Found | str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "there is no nvidia-smi"
    command = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"nvidia-smi did not answer within {_SMI_TIMEOUT_S:g} s"
    except OSError as problem:
        return f"nvidia-smi cannot be run: {problem.strerror}"
    if done.returncode:
        return f"nvidia-smi says: {' '.join((done.stdout or done.stderr).split())[:200]}"
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    # Memory in MiB; "[N/A]" where it is shared with the host.
    return [
        (row[0], row[1], float(row[2]) * 2**20 if row[2].isdecimal() else float("nan")) for row in rows if len(row) == 3
    ]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built with; None for a build without, or no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, flags=re.MULTILINE)
    return found[1] if found else None


def assemblers() -> list[Assembler]:
    """The assemblers that Triton compiles with, each tried on a kernel of one instruction; none without Triton."""
    spec = importlib.util.find_spec("triton")
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(next(iter(spec.submodule_search_locations))) / "backends" / "nvidia" / "bin"
    found = []
    for name, (setting, arch) in _ASSEMBLERS.items():
        path = Path(os.environ.get(setting) or folder / name)
        if name == "ptxas" or path.is_file():  # older Tritons have one for all
            found.append(_tried(name, path, arch))
    return found


def _tried(name: str, path: Path, arch: str) -> Assembler:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.ptx"
        source.write_text(_PTX, encoding="ascii")
        command: list[str | Path] = [path, f"--gpu-name={arch}", "--output-file", Path(folder) / "probe.cubin", source]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PTXAS_TIMEOUT_S, check=False)
        except (OSError, subprocess.SubprocessError) as problem:
            return Assembler(name, str(path), False, str(getattr(problem, "strerror", None) or problem))
    said = " ".join((done.stderr or done.stdout).split())[:200]
    return Assembler(name, str(path), done.returncode == 0, said if done.returncode else "")


def cache_folders() -> dict[str, Path]:
    """Folders that are written to when kernels are compiled, tuned or run."""
    from ..kernels.cache import cache_dir

    home = Path(os.environ.get("TRITON_HOME") or Path.home())
    return {
        "compiler's answers and tuned files": cache_dir(),
        "Triton's kernels": Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache"),
    }


def writable(folder: Path) -> bool:
    """Whether files can be written there: in it, or where it would be made."""
    try:
        while not folder.exists():
            folder = folder.parent
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False

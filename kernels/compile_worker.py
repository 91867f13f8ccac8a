"""The side of compilation that imports Triton: run one job in a process of its own and report what came out.

Triton's compiler can print megabytes, abort on an internal assertion, or not come back. Each job therefore
runs in a fork of the worker, with its output in a file and a time limit; whatever happens to it becomes a
record. Nothing here needs a GPU: ``triton.compile`` is given its target.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .cache import kernel_hash
from .space import KernelConfig, architecture_number
from .ttgir import without_locations

_POLL_S = 0.02
_START_S = 60.0  # for an interpreter to start and import Triton, on a busy machine
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_REASON_LENGTH = 400


def compile_job(config: Mapping[str, Any], arch: str, source: str, timeout_s: float) -> dict[str, Any]:
    """Compile one configuration and return its record; never raises for what the compiler does.

    ``source`` is ``kernel_hash`` as the caller sees it: a worker that sees another (a file edited
    meanwhile, another version on a remote machine) says so and compiles nothing, lest its answer be filed
    under the wrong source. The record holds "status" ("ok", "failed", "crashed", "timeout", "changed"),
    "reason", "seconds" and, when ok, the raw facts that ``facts.facts_from_record`` reads.
    """
    if threading.active_count() > 1:
        # A fork of a process with threads may inherit a lock that nobody will release: a dask worker, a
        # test run.
        return _in_new_process(config, arch, source, timeout_s)
    os.environ.pop("TRITON_INTERPRET", None)
    try:
        _warm(str(config["kernel"]), arch)
    except ImportError as error:
        return {"status": "failed", "reason": f"Triton cannot be imported: {error}", "seconds": 0.0}
    started = time.monotonic()
    record = _isolated(lambda scratch: _compile(KernelConfig(**config), arch, source, scratch), timeout_s)
    record["seconds"] = round(time.monotonic() - started, 3)
    return record


@functools.cache
def _warm(kernel: str, arch: str) -> None:
    """Do once in this process what every fork of it would do again, a third of a compilation: Triton hashes its own half
    gigabyte, asks ptxas for its version and parses the kernel. Raises ImportError without Triton.

    None of this runs a compiler pass, which could take the process down. The source's hash is taken first: what a fork
    compares with the caller's belongs to the module that was loaded here, whatever becomes of the file.
    """
    kernel_hash(kernel)
    from triton.backends.compiler import GPUTarget
    from triton.compiler import compiler

    target = GPUTarget("cuda", architecture_number(arch), 32)
    # These are Triton's internals: where a release has others, forks do it all themselves.
    with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
        source, options = _source(KernelConfig(kernel=kernel, pattern="causal"))
        backend = compiler.make_backend(target)
        parsed = backend.parse_options(options)
        compiler.get_cache_key(source, backend, parsed, env_vars={})
        context = compiler.ir.context()
        compiler.ir.load_dialects(context)
        backend.load_dialects(context)
        functions = backend.get_codegen_implementation(parsed)
        source.make_ir(target, parsed, functions, backend.get_module_map(), context)


def _in_new_process(config: Mapping[str, Any], arch: str, source: str, timeout_s: float) -> dict[str, Any]:
    """Run ``compile_job`` in an interpreter of its own, which costs it half a second to start."""
    code = f"from {__name__} import main; main()"
    asked = json.dumps([dict(config), arch, source, timeout_s])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("TRITON_INTERPRET", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=asked,
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            timeout=timeout_s + _START_S,
        )
        record: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {
            "status": "timeout",
            "reason": f"the compiler took longer than {timeout_s:g} s",
            "seconds": timeout_s,
        }
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        return {"status": "crashed", "reason": f"the compiling process failed: {error}"}
    return record


def main() -> None:
    """Read the arguments of ``compile_job`` as JSON from stdin and print its record as JSON."""
    print(json.dumps(compile_job(*json.load(sys.stdin))))


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent ends; elsewhere do nothing.

    Without it the workers of a command that is killed would wait for jobs for ever.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _isolated(work: Callable[[Path], dict[str, Any]], timeout_s: float) -> dict[str, Any]:
    """Run ``work`` in a fork with its output in a file, and turn every way it may end into a record."""
    with tempfile.TemporaryDirectory(prefix="attncast-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        child = os.fork()
        if child == 0:
            _run_child(work, scratch)  # does not return
        status = _wait(child, timeout_s)
        if status is None:
            return {"status": "timeout", "reason": f"the compiler took longer than {timeout_s:g} s"}
        try:
            record: dict[str, Any] = json.loads((scratch / "record.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {status >> 8}"
            return {"status": "crashed", "reason": _explain(f"the compiler died with {how}", scratch)}
        if record["status"] != "ok":
            record["reason"] = _explain(record["reason"], scratch)
        return record


def _run_child(work: Callable[[Path], dict[str, Any]], scratch: Path) -> None:
    """Body of the fork: output to a file, a group of its own so that ptxas dies with it, a record at the
    end.
    """
    try:
        die_with_parent()
        os.setsid()
        log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["TRITON_CACHE_DIR"] = str(scratch / "triton")
        os.environ["TRITON_DUMP_PTXAS_LOG"] = "1"
        os.environ["TMPDIR"] = str(scratch)
        tempfile.tempdir = str(scratch)
        try:
            record = work(scratch)
        except BaseException as error:
            record = {"status": "failed", "reason": _message(error)}
        (scratch / "record.json").write_text(json.dumps(record), encoding="utf-8")
    finally:
        os._exit(0)


def _message(error: BaseException) -> str:
    """Return the sentence inside an error. Triton's point at source first: "at 3:1:", lines of it, "^",
    then it.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    _, pointed, sentence = text.rpartition("^\n")
    return sentence if pointed and sentence.strip() else f"{type(error).__name__}: {text}"


def _wait(child: int, timeout_s: float) -> int | None:
    """Return the wait status of ``child``, or None after killing it at the time limit."""
    deadline = time.monotonic() + timeout_s
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > deadline:
            for kill in (os.killpg, os.kill):
                try:
                    kill(child, signal.SIGKILL)
                    break
                except ProcessLookupError:  # not yet its own group
                    continue
            os.waitpid(child, 0)
            return None
        time.sleep(_POLL_S)


def _explain(reason: str, scratch: Path) -> str:
    """Add the compiler's own complaint, found in its output, to a reason; one line, bounded."""
    text = ""
    with contextlib.suppress(OSError):
        text = (scratch / "log").read_text(encoding="utf-8", errors="replace")
    told = re.search(r"(Assertion .*? failed)|ptxas(?:-blackwell)? (?:fatal|error)\s*: (.*)", text) or re.search(
        r"()error: (.*)", text
    )
    # The first line alone: Triton's messages go on with reproducers and whole modules.
    head = reason.strip().splitlines()[0] if reason.strip() else "no message"
    detail = (told[1] or told[2] or "").strip() if told else ""
    whole = f"{head}: {detail}" if detail and detail not in head else head
    return whole[:_REASON_LENGTH]


def _compile(config: KernelConfig, arch: str, source: str, scratch: Path) -> dict[str, Any]:
    """Compile in this process and return the facts of the result."""
    if kernel_hash(config.kernel) != source:
        return {"status": "changed", "reason": "the kernel's source is not the one that was asked about"}
    import triton
    from triton.backends.compiler import GPUTarget

    ast_source, options = _source(config)
    if type(ast_source.fn).__name__ != "JITFunction":
        return {
            "status": "failed",
            "reason": "the kernel was loaded under TRITON_INTERPRET, not as a JITFunction",
        }
    target = GPUTarget("cuda", architecture_number(arch), 32)
    kernel = triton.compile(ast_source, target=target, options=options)
    cubin = scratch / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    log = (scratch / "log").read_text(encoding="utf-8", errors="replace")
    code, isa = _disassemble(cubin, kernel.asm["ptx"])
    return {
        "status": "ok",
        "reason": "",
        "shared_bytes": int(kernel.metadata.shared or 0),
        "tmem_columns": int(getattr(kernel.metadata, "tmem_size", 0) or 0),
        "warps": int(kernel.metadata.num_warps),
        "cubin_bytes": len(kernel.asm["cubin"]),
        **_resources(cubin, log),
        # Kept as they are, so that a better reader of them does not mean to compile again.
        "isa": isa,
        "code": pack(code),
        "ttgir": pack(without_locations(kernel.asm["ttgir"])),
    }


def _source(config: KernelConfig) -> tuple[Any, dict[str, Any]]:
    """What Triton compiles for a configuration, and its options."""
    from triton.compiler import ASTSource

    from .attention_spec import forward_spec
    from .decode_spec import decode_spec

    dtype, dim, pattern = config.dtype, config.head_dim, config.pattern
    if config.kernel == "decode":
        spec = decode_spec(
            dtype=dtype, head_dim=dim, pattern=pattern, block_m=config.block_m, block_n=config.block_n,
            num_warps=config.num_warps, num_stages=config.num_stages,
        )  # fmt: skip
    else:
        spec = forward_spec(config.forward_config(), dtype=dtype, head_dim=dim, pattern=pattern)
    return ASTSource(spec.fn, spec.signature, spec.constexprs, spec.attrs), dict(spec.options)


def pack(text: str) -> str:
    """Return ``text`` compressed, in characters that JSON takes; ``facts.unpack`` is the way back."""
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def _tool(name: str) -> Path | None:
    """Return the NVIDIA tool inside the Triton wheel, or None when it is not shipped."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return path if path.is_file() else None


def _disassemble(cubin: Path, ptx: str) -> tuple[str, str]:
    """Return (code, "sass"), or the PTX and "ptx" when no disassembler knows the architecture."""
    tool = _tool("nvdisasm")
    if tool is not None:
        done = subprocess.run([tool, "-c", cubin], capture_output=True, text=True, check=False)
        if done.returncode == 0 and "/*0000*/" in done.stdout:
            return done.stdout, "sass"
    return ptx, "ptx"


def _resources(cubin: Path, log: str) -> dict[str, int | None]:
    """Return registers per thread, and stack and spills in bytes per thread.

    Registers and stack from ``cuobjdump -res-usage`` where it is shipped, else from ptxas -v; spill stores
    and loads from ptxas -v, the only one to tell them from other uses of local memory.
    """
    spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    used = re.search(r"Used (\d+) registers", log)
    registers = int(used[1]) if used else None
    stack = int(spills[1]) if spills else None
    tool = _tool("cuobjdump")
    if tool is not None:
        done = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=False)
        if usage := re.search(r"REG:(\d+) STACK:(\d+)", done.stdout):
            registers, stack = int(usage[1]), int(usage[2])
    return {
        "registers": registers,
        "stack_bytes": stack,
        "spill_store_bytes": int(spills[2]) if spills else None,
        "spill_load_bytes": int(spills[3]) if spills else None,
    }

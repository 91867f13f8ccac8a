"""``python -m attncast.kernels.bench``: our kernels against torch SDPA and FlexAttention on the GPU at hand.

Every case runs in a process of its own with a time limit, so one that fails, hangs or poisons the GPU's
context costs only itself: it becomes a row that says so. Results are JSON lines, appended as they come.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMIT_S = 8 * 60
NAMES = ("dense", "causal", "hunyuan-na", "window", "permute", "hunyuan-na-masked", "causal-32k")


def describe(row: dict[str, Any]) -> str:
    """Return one line for people."""
    start = f"{row['case']:18} {row.get('implementation', '-'):26}"
    if row["status"] != "ok":
        return f"{start} {row['status']}: {row.get('reason', '')}"
    parts = [f"{row['median_s'] * 1e3:10.3f} ms"]
    if "tflops" in row:
        parts.append(f"{row['tflops']:7.1f} TFLOP/s ({row['tile_tflops']:.1f} over tiles)")
    if "bytes_per_s" in row:
        parts.append(f"{row['bytes_per_s'] / 1e12:6.3f} TB/s")
    for key, word in (("times_faster_than_sdpa", "sdpa"), ("times_faster_than_flex", "flex")):
        if key in row:
            parts.append(f"{row[key]:5.2f}x {word}")
    if "part_of_copy_rate" in row:
        parts.append(f"{row['part_of_copy_rate']:.0%} of copy")
    return f"{start} {'  '.join(parts)}"


def run_child(name: str, dry: bool, budget_s: float, limit_s: float) -> list[dict[str, Any]]:
    """Run one case in a process of its own and return its rows, a row for its failure last if it did not end
    well.
    """
    command = [sys.executable, "-m", "attncast.kernels.bench", "--child", name, "--budget", str(budget_s)]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    if dry:
        command.append("--dry-run")
        environment["TRITON_INTERPRET"] = "1"
    reason = ""
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)
        output, errors = done.stdout, done.stderr
        if done.returncode:
            reason = f"exit status {done.returncode}: {errors.strip()[-400:]}"
    except subprocess.TimeoutExpired as late:
        raw = late.stdout or b""
        output = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
        reason = f"no end after {limit_s:.0f} s"
    rows = []
    for line in output.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and row.get("case") == name:
            rows.append(row)
    if reason:
        rows.append({"schema": 1, "case": name, "status": "failed", "reason": reason})
    return rows


def child(name: str, dry: bool, budget_s: float) -> None:
    """The other end of ``run_child``."""
    from .bench_case import run_case

    run_case(name, dry, budget_s, lambda row: print(json.dumps(row), flush=True))


def has_gpu() -> bool:
    """Ask torch in a process of its own, so that this one holds no GPU memory."""
    code = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 1)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; exit status 0 if every case gave a result, 1 if some failed, 2 without a GPU."""
    summary = "Time attncast's kernels, torch SDPA and FlexAttention on this GPU."
    parser = argparse.ArgumentParser(prog="python -m attncast.kernels.bench", description=summary)
    parser.add_argument("-o", "--output", type=Path, help="append rows to this file as JSON lines")
    parser.add_argument("--case", action="append", choices=NAMES, help="only these (repeatable)")
    parser.add_argument("--seconds", type=float, default=LIMIT_S, help="stop starting cases after this long")
    parser.add_argument("--budget", type=float, default=1.5, help="seconds of calls per measurement")
    parser.add_argument("--json", action="store_true", help="print rows as JSON lines")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, interpreted on the CPU: no timings")
    parser.add_argument("--child", choices=NAMES, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        child(chosen.child, chosen.dry_run, chosen.budget)
        return 0
    if not chosen.dry_run and not has_gpu():
        print("attncast.kernels.bench needs a CUDA GPU: use --dry-run to try it without one", file=sys.stderr)
        return 2
    start = time.monotonic()
    failed = False
    for name in chosen.case or NAMES:
        left = chosen.seconds - (time.monotonic() - start)
        if left < 15:
            rows = [{"schema": 1, "case": name, "status": "skipped", "reason": f"{chosen.seconds:.0f} s are over"}]
        else:
            rows = run_child(name, chosen.dry_run, chosen.budget, left)
        for row in rows:
            failed |= row["status"] != "ok"
            text = json.dumps(row)
            print(text if chosen.json else describe(row), flush=True)
            if chosen.output:
                with chosen.output.open("a") as file:
                    file.write(text + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

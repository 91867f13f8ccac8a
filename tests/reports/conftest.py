"""A browser, where there is one, and pages to open in it."""

from __future__ import annotations

import shutil

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; tests that need it are skipped, with the reason, where it or playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="session")
def tuning():
    """A tuning made by hand: times that fall and rise again with the tile, some measured, some ruled out."""
    import itertools

    from attncast.autotune.result import Candidate, Resources, SpaceCounts, Tuning
    from attncast.simulator import Workload

    found, out = [], []
    for m, n, warps, stages in itertools.product((32, 64, 128, 256), (32, 64, 128), (4, 8), (2, 3, 4)):
        time_s = 1e-3 * (
            1 + 0.3 * abs(m - 128) / 128 + 0.2 * abs(n - 64) / 64 + 0.05 * (warps == 4) + 0.02 * (4 - stages)
        )
        resources = Resources(168, 0, 1024 * (m + 2 * n * stages) // 4, 0, 2 if m < 256 else 1)
        knobs = {"BLOCK_M": m, "BLOCK_N": n, "num_warps": warps, "num_stages": stages}
        problem = "shared memory of 260 KiB, <script>alert(1)</script>" if m * n * stages > 70_000 else ""
        (out if problem else found).append(
            Candidate(knobs, time_s, 0.9 * time_s, 1.12 * time_s, "tensor", resources, problem=problem)
        )
    found.sort(key=lambda c: c.time_s)
    for index in range(8):
        c = found[index]
        measured_s = c.time_s * (0.95 + 0.02 * index)
        found[index] = Candidate(
            c.config, c.time_s, c.low_s, c.high_s, c.bound_by, c.resources, measured_s, 0.01 * measured_s
        )
    counts = SpaceCounts(120, len(found) + len(out), len(found) + len(out), 8)
    workload = Workload(8192, 32, 128)
    ranking, ruled_out = tuple(found), tuple(out)
    return Tuning("h100", "triton", workload, "causal", "full", ranking, ruled_out, counts, 12.5, 0.83, ("A note.",))

"""How far off are forecasts from what I measured, and does fitting a few constants to my runs help?

Imports a table that another tool wrote (here 160 rows of NVIDIA aiconfigurator: vLLM's attention on an H100), fits six
constants for each use, and shows errors on shapes that no constant saw.

    python examples/check_my_measurements.py [FORMAT FILE [CONSTANTS.toml]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from attncast.files import write_whole
from attncast.simulator.calibration import calibration_text
from attncast.validation.calibrate import Fitted, calibrate
from attncast.validation.importers import import_runs

SAMPLE = Path(__file__).parent / "data" / "attention_h100.csv"


def fits(form: str, path: Path) -> list[Fitted]:
    """Constants of every use with enough rows, and the errors without them."""
    imported = import_runs(form, path)
    for run, reason in imported.implausible:
        print(f"left out {run.id}: {reason}")
    found, left_out = calibrate(imported.runs, path.name, f"attncast calibrate --rows {path.name}")
    for reason, count in left_out.items():
        print(f"left out {count:,}: {reason}")
    return found


def main(form: str, path: Path, target: Path | None) -> None:
    found = fits(form, path)
    print(f"{'use':30}{'rows':>6}{'priors':>9}{'held out':>10}{'p90':>8}{'inside 80%':>12}")
    for fit in found:
        before, size = np.abs(fit.before), np.abs(fit.held_out)
        print(
            f"{fit.use!s:30}{size.size:>6,}{before.mean():>9.1%}{size.mean():>10.1%}{np.quantile(size, 0.9):>8.1%}"
            f"{fit.inside:>12.0%}"
        )
    if target is not None:
        write_whole(target, calibration_text({fit.use: fit.constants for fit in found}).encode())
        print(f"wrote {target}: attncast predict ... --engine vllm --calibration {target}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        given[0] if given else "aiconfigurator",
        Path(given[1]) if len(given) > 1 else SAMPLE,
        Path(given[2]) if len(given) > 2 else None,
    )

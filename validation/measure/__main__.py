"""``python -m attncast.validation.measure SUITE``: the same as ``attncast measure``, where click and rich are missing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ...errors import InputError
from ...hwmodels import load_gpu
from .campaign import dry_run, measure
from .lines import Lines
from .sizing import read_part
from .suites import suite_names


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a suite; exit status 0, 1 when a dry run found problems, 2 for bad input or no GPU."""
    parser = argparse.ArgumentParser(prog="python -m attncast.validation.measure", description=__doc__)
    parser.add_argument("suite", metavar="SUITE", help=", ".join(suite_names()))
    parser.add_argument("-o", "--output", default="runs.jsonl", metavar="FILE", help="file to append to")
    parser.add_argument("--seconds", type=float, help="begin no case that would end later")
    parser.add_argument("--part", metavar="K/N", help="part K of N")
    parser.add_argument("--retry", action="store_true", help="try again what had a problem before")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU; nothing is timed or written")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.dry_run:
            outcome = dry_run(chosen.suite, load_gpu("h100"), Lines())
        else:
            part = read_part(chosen.part) if chosen.part else None
            outcome = measure(
                chosen.suite, chosen.output, Lines(), seconds=chosen.seconds, part=part, retry=chosen.retry
            )
    except InputError as problem:
        print(f"attncast: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("attncast: interrupted; the same command goes on", file=sys.stderr)
        return 130
    print("\n".join(outcome.lines()))
    return int(chosen.dry_run and outcome.problems > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Plain JSON: one tuning as ``attncast tune --json`` prints it, with its workload; several as a list of these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from ..result import Tuning


def text(tunings: Sequence[Tuning]) -> str:
    """The JSON text."""
    found = [{**tuning.to_dict(), "workload": asdict(tuning.workload)} for tuning in tunings]
    document = found[0] if len(found) == 1 else {"schema": 1, "tunings": found}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"

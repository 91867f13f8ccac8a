"""Where tests find things."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"  # collected data beside a developer's checkout; tests that use it skip without it

"""Run the commands whose output README.md shows, and put the output back: ``make readme``.

A block looks like this; ``timing`` marks output that differs from run to run, which the suite does not compare:

    <!-- run: attncast gpu list -->
    ...
    <!-- end -->
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- run(?P<kind>| timing): (?P<command>.+?) -->\n)(?P<body>.*?)(\n<!-- end -->)", re.DOTALL)


def output(command: str) -> str:
    """What a command prints, fenced unless it is a Markdown table; run with this interpreter's attncast."""
    words = shlex.split(command)
    if words[0] == "attncast":
        words = [sys.executable, "-m", *words]
    elif words[0] == "python":
        words[0] = sys.executable
    text = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT).stdout.rstrip()
    return text if text.startswith("|") else f"```\n$ {command}\n{text}\n```"


def refreshed(text: str, timing: bool) -> str:
    """The README with its blocks run again; those marked ``timing`` only when asked for."""

    def run(match: re.Match[str]) -> str:
        if match["kind"] and not timing:
            return match[0]
        return f"{match[1]}{output(match['command'])}{match[5]}"

    return BLOCK.sub(run, text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(refreshed(readme.read_text(encoding="utf-8"), timing="--timing" in sys.argv), encoding="utf-8")

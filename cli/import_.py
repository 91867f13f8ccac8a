"""``attncast import``."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from ..files import check_output
from ..validation.importers import FORMATS, Given, Imported, import_runs
from ..validation.measured import DIRECTIONS, save_runs
from . import complete
from .options import json_option
from .output import print_json

_SHOWN = 5


@click.command("import", epilog="Formats: " + "; ".join(f"{key} ({form.title})" for key, form in FORMATS.items()) + ".")
@click.argument(
    "format_key",
    metavar="FORMAT",
    shell_complete=complete.of(lambda: {key: form.title for key, form in FORMATS.items()}),
)
@click.argument("path", shell_complete=complete.files)
@click.option(
    "-o", "--output", required=True, metavar="FILE", shell_complete=complete.files, help="Table of runs to write (CSV)."
)
@click.option(
    "-g",
    "--gpu",
    shell_complete=complete.gpu,
    help="The GPU, where the file names none or one without a hardware model.",
)
@click.option(
    "-k",
    "--kernel",
    shell_complete=complete.kernel,
    help="Kernel profile of all rows, where the file's own name is not known.",
)
@click.option("--software", metavar="TEXT", help="What really ran, with versions, where the file does not say.")
@click.option("-b", "--batch", type=int, help="Sequences. This and what follows: only for files that lack it.")
@click.option("-n", "--heads", type=int, help="Query heads.")
@click.option("--heads-kv", type=int, help="Key/value heads; as many as query heads when left out.")
@click.option("-i", "--input-size", "grid", metavar="GRID", help="Query tokens, e.g. 4096 or 30x48x80.")
@click.option("--kv", "kv_grid", metavar="GRID", help="Key tokens, when not those of the queries.")
@click.option("--cached", type=int, metavar="N", help="Tokens already in the cache, before the queries.")
@click.option("-d", "--head-dim", type=int, help="Head dimension.")
@click.option("--head-dim-v", type=int, help="Head dimension of the values, when it differs.")
@click.option("--dtype", shell_complete=complete.dtype, help="bf16, fp16 or fp8.")
@click.option("--kv-dtype", shell_complete=complete.dtype, help="Dtype of the stored keys and values, when it differs.")
@click.option("-p", "--pattern", metavar="TEXT", shell_complete=complete.pattern, help="Pattern, as for predict.")
@click.option("--q-tile", metavar="TILE", help="Q tile, tokens per axis.")
@click.option("--kv-tile", metavar="TILE", help="KV tile, tokens per axis.")
@click.option("--direction", type=click.Choice(DIRECTIONS), help="Forward, backward or both.")
@click.option("--skip-bad", is_flag=True, help="Leave bad rows out and count them, instead of refusing the file.")
@click.option("--keep-implausible", is_flag=True, help="Keep rows that are faster than the hardware.")
@json_option
def import_(
    format_key: str, path: str, output: str, skip_bad: bool, keep_implausible: bool, as_json: bool, **stated: Any
) -> None:
    """Turn measurements that another tool wrote into a table of measured runs.

    All of the file or nothing: a bad row ends the import, and no table is written. Rows that cannot be true (faster than
    the hardware, or contradicting their own operation count) are reported and left out.

    \b
    Examples:
      attncast import aiconfigurator context_attention_perf.txt -o runs.csv
      attncast import triton-cache _attn_fwd.autotune.json -o runs.csv -g h100 \\
        -b 4 -n 32 -i 4096 -d 128 --dtype fp16 -p causal --direction fwd
    """
    check_output(output, path, "import")
    result = import_runs(format_key, path, Given(**stated), skip_bad=skip_bad, keep_implausible=keep_implausible)
    save_runs(output, result.runs)
    summary = _summary(result, output)
    if as_json:
        print_json([summary])
    else:
        _print(summary)


def _summary(result: Imported, output: str) -> dict[str, Any]:
    kinds = Counter(reason.partition(":")[0] for _, reason in result.implausible)
    return {
        "output": output,
        "rows": len(result.runs),
        "implausible": dict(kinds.most_common()),
        "first_implausible": [{"id": run.id, "reason": reason} for run, reason in result.implausible[:_SHOWN]],
        "no_run": dict(result.no_run.most_common()),
        "undescribed": dict(result.undescribed.most_common()),
        "bad": dict(result.bad.most_common()),
    }


def _print(summary: dict[str, Any]) -> None:
    click.echo(f"{summary['rows']:,} rows written to {summary['output']}")
    for key, title in (
        ("implausible", "implausible"),
        ("no_run", "no run"),
        ("bad", "bad, left out"),
        ("undescribed", "written that no forecast is made of"),
    ):
        counts = summary[key]
        if counts:
            click.echo(f"{sum(counts.values()):,} {title}:")
            for reason, count in list(counts.items())[: 2 * _SHOWN]:
                click.echo(f"  {count:,}  {reason}")
    for item in summary["first_implausible"]:
        click.echo(f"  {item['id']}: {item['reason']}")

"""``attncast gpu``."""

from __future__ import annotations

import click

from ..hwmodels import gpu_names, load_gpu
from . import complete
from .options import json_option
from .output import print_json, print_table


@click.group()
def gpu() -> None:
    """Hardware models: every figure with its unit, source and kind.

    \b
    Examples:
      attncast gpu list
      attncast gpu show h100
      attncast gpu show ./my-gpu.toml --json
    """


@gpu.command("list")
@json_option
def list_gpus(as_json: bool) -> None:
    """List the hardware models.

    \b
    Examples:
      attncast gpu list
      attncast gpu list --json
    """
    models = [load_gpu(name) for name in gpu_names()]
    if as_json:
        print_json(
            [
                {
                    "gpu": g.key,
                    "name": g.name,
                    "arch": g.arch,
                    "generation": g.generation,
                    "sms": g.sms,
                    "bf16_flops": g.peak_flops("bf16"),
                    "dram_bandwidth_bytes_s": g.dram_bandwidth_bytes_s,
                    "dram_bytes": g.dram_bytes,
                }
                for g in models
            ]
        )
        return
    print_table(
        ["GPU", "name", "arch", "SMs", "bf16 TFLOP/s", "DRAM TB/s", "DRAM GB"],
        [
            [
                g.key,
                g.name,
                g.arch,
                str(g.sms),
                f"{g.peak_flops('bf16') / 1e12:,.0f}",
                f"{g.dram_bandwidth_bytes_s / 1e12:.2f}",
                f"{g.dram_bytes / 1e9:.0f}",
            ]
            for g in models
        ],
    )


@gpu.command("show")
@click.argument("name", shell_complete=complete.gpu)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show every figure of a GPU (a name, or a TOML file of your own) with unit, kind and source.

    \b
    Examples:
      attncast gpu show h100
      attncast gpu show ./my-gpu.toml --json
    """
    model = load_gpu(name)
    if as_json:
        print_json(
            [
                {
                    "gpu": model.key,
                    "name": model.name,
                    "arch": model.arch,
                    "generation": model.generation,
                    "figures": {
                        key: {"value": f.value, "unit": f.unit, "kind": f.kind, "source": f.source, "note": f.note}
                        for key, f in model.figures.items()
                    },
                }
            ]
        )
        return
    click.echo(f"{model.name} ({model.key}): {model.arch}, {model.generation}")
    for key, figure in model.figures.items():
        note = f" [{figure.note}]" if figure.note else ""
        click.echo(f"  {key:26s} {figure.value:>12,g} {figure.unit:12s} {figure.kind:9s} {figure.source}{note}")

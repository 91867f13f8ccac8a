"""The fixtures: hand-made files in each documented layout, and the options that go with them."""

from __future__ import annotations

from pathlib import Path

from attncast.validation.importers import Given

DATA = Path(__file__).parent / "data"
STATED = Given(
    gpu="h100", batch=4, heads=32, grid="4096", head_dim=128, dtype="fp16", pattern="causal", direction="fwd"
)  # fmt: skip
FLEX = Given(gpu="h100", dtype="fp16", pattern="dense")
KERNEL_TUNER = Given(
    gpu="a100-pcie", kernel="triton", batch=1, heads=32, grid="4096", head_dim=128, dtype="fp16", pattern="causal",
    direction="fwd",
)  # fmt: skip
NATTEN = Given(
    gpu="a100", batch=1, heads=16, grid="128x128", head_dim=128, dtype="fp16", pattern="na window=32x32"
)  # fmt: skip
TRITONBENCH = Given(gpu="h100", dtype="bf16", pattern="causal", direction="fwd")

# fixture -> (format, options)
CASES = {
    "context_attention_perf.txt": ("aiconfigurator", Given()),
    "joined.csv": ("aiconfigurator", Given()),
    "cudnn_training.csv": ("cudnn", Given()),
    "cudnn_both.csv": ("cudnn", Given()),
    "cudnn_artifact.csv": ("cudnn", Given(gpu="b200", dtype="bf16")),
    "cudnn_inference.csv": ("cudnn", Given()),
    "flex_new.json": ("flex", FLEX),
    "flex_old.json": ("flex", FLEX),
    "_attn_fwd.autotune.json": ("triton-cache", STATED),
    "tritonbench.csv": ("tritonbench", TRITONBENCH),
    "kernel_tuner.json": ("kernel-tuner", KERNEL_TUNER),
    "natten.txt": ("natten", NATTEN),
}

"""Which kernels cuDNN plans for attention on a GPU that is not there: engine, knobs, names, registers.

    python benchmarks/cudnn_plans.py b200 1,64,8,4096,4096,128,causal 32,32,1,1,8192,512

Each call is batch, query heads, key heads, new tokens, keys, head dim of keys (and of values), then "causal" (aligned at the
last key where there are fewer tokens than keys), "window=N" or "fp8". It needs ``pip install nvidia-cudnn-frontend
nvidia-cudnn-cu13 nvidia-cuda-nvrtc triton``, the folders of their libraries in ``LD_LIBRARY_PATH``, and a libcuda.so.1 and a
libcudart to load. These need do no more than report the architecture (cudaGetDevice, cudaDeviceGetAttribute 75 and 76) and take
a module (cuLibraryLoadData, cuLibraryGetKernel, ...): where there is no driver, stubs of some forty functions that return 0.

``simulator/profiles/cudnn.toml`` was written from what this prints with cuDNN 9.27.0.42, cudnn-frontend 1.32.0 and NVRTC
13.5.37; its shared memory from what cuDNN answers when the frontend asks for CUDNN_ATTR_ENGINECFG_SHARED_MEMORY_USED.
"""

from __future__ import annotations

import base64
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from attncast.hwmodels import GPU, load_gpu

# What cuDNN asks of a device beyond what a hardware model states; none of it changed a plan.
REST = {
    "maxGridSize": [2**31 - 1, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "smCountOrigin": 0, "warpSize": 32,
    "maxSharedMemoryPerBlock": 49152, "oversizedSharedMemoryPerBlock": 0, "maxThreadsPerBlock": 1024, "pciDeviceId": 0,
    "isTccDriver": 0, "supportCoopLaunch": 1, "memClockRateKHz": 2_000_000, "memoryBusWidth": 5120, "cudaDeviceId": 0,
    "driverVer": 13000,
}  # fmt: skip
SCALES = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")


def device(gpu: GPU) -> str:
    """The GPU's properties as the JSON that cuDNN writes them in."""
    own = {
        "deviceName": gpu.name,
        "deviceVer": 10 * int(gpu.arch.removeprefix("sm_")),
        "multiProcessorCount": gpu.sms,
        "regsPerBlock": gpu.registers_per_sm,
        "maxRegistersPerSM": gpu.registers_per_sm,
        "maxSharedMemoryPerBlockOptin": int(gpu.smem_bytes_per_cta),
        "reservedSharedMemoryPerBlock": int(gpu.smem_reserved_bytes_per_cta),
        "maxCtasPerSM": gpu.max_ctas_per_sm,
        "maxThreadsPerSM": gpu.max_threads_per_sm,
        "smClockRateKHz": int(gpu.clock_hz / 1e3),
        "l2CacheSize": int(gpu.l2_bytes),
        "totalGlobalMem": 80 * 10**9,
    }
    return json.dumps({**REST, **own})


def plan(gpu: GPU, text: str) -> bytes:
    """The serialised plan of a call."""
    import cudnn  # type: ignore[import-not-found]

    words = text.split(",")
    sizes = [int(word) for word in words if word.isdigit()]
    batch, heads, kv_heads, tokens, keys, dim = sizes[:6]
    dim_v, fp8 = (sizes[6:] or [dim])[0], "fp8" in words
    kind, fp32 = (cudnn.data_type.FP8_E4M3 if fp8 else cudnn.data_type.BFLOAT16), cudnn.data_type.FLOAT
    graph = cudnn.pygraph(
        io_data_type=kind, intermediate_data_type=fp32, compute_data_type=fp32,
        device_property=cudnn.create_device_properties(device(gpu)),
    )  # fmt: skip

    def tensor(name: str, count: int, length: int, size: int) -> Any:
        stride = [length * count * size, size, count * size, 1]
        return graph.tensor(name=name, dim=[batch, count, length, size], stride=stride, data_type=kind)

    operands = {"q": tensor("q", heads, tokens, dim), "k": tensor("k", kv_heads, keys, dim)}
    operands["v"] = tensor("v", kv_heads, keys, dim_v)
    common = {"attn_scale": 1.0 / math.sqrt(dim), "generate_stats": False, "name": "sdpa", **operands}
    window = [int(word.removeprefix("window=")) for word in words if word.startswith("window=")]
    causal = "causal" in words or bool(window)
    if fp8:
        one = {"dim": [1, 1, 1, 1], "stride": [1, 1, 1, 1], "data_type": fp32}
        out, *rest = graph.sdpa_fp8(
            **common, **{name: graph.tensor(name=name, **one) for name in SCALES}, use_causal_mask=causal
        )
        for other in rest[1:]:
            other.set_output(True).set_dim(one["dim"]).set_stride(one["stride"]).set_data_type(fp32)
    else:
        ends = cudnn.diagonal_alignment.TOP_LEFT if tokens == keys else cudnn.diagonal_alignment.BOTTOM_RIGHT
        bounds = {"diagonal_alignment": ends, "diagonal_band_right_bound": 0} if causal else {}
        bounds |= {"diagonal_band_left_bound": window[0]} if window else {}
        out, _ = graph.sdpa(**common, **bounds)
    out.set_output(True).set_dim([batch, heads, tokens, dim_v]).set_stride(
        [tokens * heads * dim_v, dim_v, heads * dim_v, 1]
    )
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A])
    graph.check_support()
    graph.build_plans()
    return bytes(graph.serialize())


def kernels(blob: bytes) -> list[str]:
    """What a plan says of its engine and kernels, with the registers and spills of their programs."""
    from triton import knobs  # type: ignore[import-untyped]

    text = blob[blob.index(b'{"cudnnVersion"') :].decode("latin1")
    engine = json.JSONDecoder().raw_decode(text)[0]["engine"]
    found = [f"engine {engine['engineId']}, {engine['knobChoices']}"]
    for kernel in engine["payload"]["kernels"]:
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "kernel.cubin"
            program.write_bytes(base64.b64decode(kernel["cubin"]))
            command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(program)]
            used = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.append(f"{kernel['kernelName']}  {' '.join(re.findall(r'(?:REG|STACK):[0-9]+', used))}")
    return found


if __name__ == "__main__":
    for call in sys.argv[2:]:
        print(sys.argv[1], call, *kernels(plan(load_gpu(sys.argv[1]), call)), sep="\n  ")

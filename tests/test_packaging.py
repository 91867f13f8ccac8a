"""The wheel holds the package and nothing else, data included."""

from __future__ import annotations

import subprocess
import sys
import zipfile

from .paths import ROOT


def test_the_wheel_holds_only_the_package(tmp_path):
    # Built from a copy: setuptools leaves a build folder behind.
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(source)], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)],
        check=True,
    )
    (wheel,) = tmp_path.glob("attncast-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"attncast"}
    for wanted in (
        "attncast/hwmodels/h100.toml",
        "attncast/kernels/tuned/kernel=triton,device_name=NVIDIA_H100_80GB_HBM3,dtype=bf16.json",
        "attncast/simulator/profiles/natten.toml",
        "attncast/simulator/choices.toml",
        "attncast/validation/data/neighborhood.csv",
        "attncast/validation/measure/suites/smoke.toml",
        "attncast/hwmodels/accelerators/fusemax.toml",
        "attncast/simulator/accelerator/bindings/binding.toml",
        "attncast/simulator/accelerator/transformers.toml",
        "attncast/simulator/cascades/fusemax.cascade",
        "attncast/validation/importers/names.toml",
        "attncast/py.typed",
    ):
        assert wanted in names
    assert not [name for name in names if "/tests/" in name]

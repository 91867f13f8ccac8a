"""``attncast doctor``: what it finds, and that what it says of commands is so."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
import types

import pytest

from attncast.cli import COMMANDS, doctor, libraries, machine

from ..paths import ROOT
from .test_help import TREE

ALL_WORKS = machine.Assembler("ptxas", "/bin/ptxas", True)
H100 = machine.Device("NVIDIA H100 80GB HBM3", "570.1", 85e9, "h100")
HERE = doctor.Machine([H100], "NVML", [ALL_WORKS], "12.8")
MEASURE = doctor.Use("measure", gpu=True)


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No GPU: neither NVML nor nvidia-smi, whatever this machine has."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def hide(monkeypatch, *names):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in names else real(name, *rest))


def test_extras_are_those_of_the_package():
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(extra):
        for text in packaged["optional-dependencies"][extra]:
            if text.startswith("attncast["):
                for inner in text.removeprefix("attncast[").removesuffix("]").split(","):
                    yield from names(inner)
            else:
                yield text.split(">")[0].strip()

    for extra, brought in libraries.EXTRAS.items():
        assert set(names(extra)) == set(brought.values()), extra
    assert {text.split(">")[0] for text in packaged["dependencies"]} == set(doctor.CORE)
    assert set(packaged["optional-dependencies"]) == {*libraries.EXTRAS, "dev"}


def test_the_smallest_extra_is_named():
    assert libraries.install_line(["scipy"]) == "pip install 'attncast[fit]'"
    assert libraries.install_line(libraries.GRAPHS) == "pip install 'attncast[plot]'"
    assert libraries.install_line(libraries.PAGE) == "pip install 'attncast[report]'"
    assert libraries.install_line(["torch", "pynvml"]) == "pip install 'attncast[kernels,measure]'"


def test_every_command_is_judged_and_every_use_is_a_command(attncast, alone):
    status, out, err = attncast("doctor", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert (found["schema"], found["works"], found["problem"], found["gpus"]) == (1, True, "", [])
    judged = [each["command"] for each in found["commands"]]
    assert {command.split()[0] for command in judged} == set(COMMANDS)
    assert len(judged) == len(set(judged))
    paths = dict(TREE)
    for use in doctor.USES:
        words = use.command.split()
        options = [at for at, word in enumerate(words) if word.startswith("--")]
        path = tuple(words[: options[0]] if options else words)
        known = [name for parameter in paths[path].params for name in parameter.opts]
        assert all(words[at] in known for at in options), use
    for each in found["commands"]:
        assert each["works"] == (not each["reason"])
        if each["command"] in ("measure", "tune --measure"):
            assert not each["works"]


def test_it_is_read_by_people_too(attncast, alone):
    status, out, err = attncast("doctor")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert any(line.split() == ["predict", "works"] for line in lines)
    assert any(line.startswith("tune --measure") and "NO" in line and "GPU" in line for line in lines)
    assert any(line.split()[:2] == ["numpy", importlib.import_module("numpy").__version__] for line in lines if line)
    assert lines[-1] == "The core works."


def test_a_missing_library_is_named_with_the_line_that_brings_it(attncast, alone, monkeypatch):
    hide(monkeypatch, "scipy", "triton", "distributed")
    _, out, _ = attncast("doctor", "--json")
    found = json.loads(out)
    verdicts = {each["command"]: each for each in found["commands"]}
    for command, remedy in {
        "validate": "pip install 'attncast[fit]'",
        "report validation": "pip install 'attncast[report]'",
        "check": "pip install 'attncast[kernels]'",
        "measure": "pip install 'attncast[kernels]'",
        "tune --scheduler": "pip install 'attncast[cluster]'",
    }.items():
        assert not verdicts[command]["works"]
        assert verdicts[command]["remedy"] == remedy
    assert verdicts["predict"]["works"]
    assert verdicts["tune"]["works"]
    versions = {library["name"]: library["version"] for library in found["libraries"]}
    assert versions["scipy"] is versions["triton"] is versions["dask.distributed"] is None
    assert found["compilers"] == []


@pytest.mark.parametrize("command", ["validate", "calibrate --rows nowhere.csv", "report validation -o out"])
def test_commands_say_the_same_line(attncast, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    hide(monkeypatch, "scipy")
    status, _, err = attncast(*command.split())
    assert status == 2
    extra = "report" if "report" in command else "fit"
    assert f"needs scipy, not installed here: expected pip install 'attncast[{extra}]'" in err


def test_what_is_said_to_need_nothing_needs_nothing(tmp_path):
    """Every command that needs no extra runs where none of their modules can be imported."""
    commands = [
        "predict -g h100 -i 64 -n 1 -d 64",
        "tiles -i 64 --q-tile 16 --kv-tile 16",
        "accelerator -a flat -m bert -s 1K",
        "advise -g h100 -i 32x32 -n 1 -d 64 -w 8x8",
        "tune -g h100 -i 1024 -n 1 -d 64",
        "pattern list",
        "pattern show causal -i 512",
        "cascade list",
        "cascade show fa2",
        "cascade check fa2",
        "gpu list",
        "measure --list",
        f"import aiconfigurator {ROOT}/tests/validation/importers/data/joined.csv -o {tmp_path}/rows.csv",
        "calibrate --show packaged",
        "doctor",
        "completion zsh",
    ]
    absent = sorted({name for brought in libraries.EXTRAS.values() for name in brought} | {"pyarrow", "playwright"})
    code = f"""
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        return None if name in {absent} else self.finder.find_spec(name, *rest)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from attncast.cli import cli
for command in {commands}:
    cli.main(command.split(), standalone_mode=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {command.split()[0] for command in commands} == {
        use.command.split()[0] for use in doctor.uses() if not use.modules and " " not in use.command
    } | {"measure", "calibrate"}


SMI = """#!/bin/sh
test "$1" = --query-gpu=name,driver_version,memory.total || exit 9
echo "NVIDIA GeForce RTX 5090, 575.51, 32607"
echo "Tesla T4, 575.51, [N/A]"
"""


def test_nvidia_smi_says_which_gpus_are_here(monkeypatch, tmp_path, attncast):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found, source = machine.devices()
    assert source == "nvidia-smi"
    assert [(gpu.name, gpu.driver, gpu.model) for gpu in found] == [
        ("NVIDIA GeForce RTX 5090", "575.51", "rtx5090"),
        ("Tesla T4", "575.51", None),
    ]
    assert found[0].memory_bytes == 32607 * 2**20
    _, out, _ = attncast("doctor")
    assert "NVIDIA GeForce RTX 5090, 34 GB, driver 575.51: hardware model rtx5090" in out
    assert "Tesla T4" in out
    _, out, _ = attncast("doctor", "--json")
    assert [gpu["memory_bytes"] for gpu in json.loads(out)["gpus"]] == [32607 * 2**20, None]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "#!/bin/sh\necho NVIDIA-SMI has failed: no driver\nexit 9\n",
            "nvidia-smi says: NVIDIA-SMI has failed: no driver",
        ),
        ("#!/bin/sh\nexit 0\n", "nvidia-smi sees none"),
        ("#!/nowhere\n", "nvidia-smi cannot be run"),
        ("#!/bin/sh\nexec sleep 5\n", "did not answer"),
    ],
)
def test_a_broken_driver_is_told(monkeypatch, tmp_path, script, words):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(machine, "_SMI_TIMEOUT_S", 0.5)
    (tmp_path / "nvidia-smi").write_text(script)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found, why = machine.devices()
    assert found == []
    assert words in why


def test_nvml_is_asked_first(monkeypatch):
    nvml = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlSystemGetDriverVersion=lambda: b"570.1",
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: b"NVIDIA H100 80GB HBM3",
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(total=85_000_000_000),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert machine.devices() == ([H100], "NVML")


@pytest.mark.parametrize("name", ["../h100.toml", "h100.toml", "a/b", "NVIDIA H1000"])
def test_a_name_from_a_driver_is_never_a_file(tmp_path, monkeypatch, name):
    assert machine.model_of(name) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"gpus": []}, "no CUDA GPU"),
        ({"torch_cuda": None}, "built without CUDA"),
        ({"gpus": [machine.Device("Tesla T4", "1", 1.0, None)]}, "no hardware model of 'Tesla T4'"),
    ],
)
def test_why_nothing_can_be_measured(monkeypatch, changes, reason):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = doctor.verdict(MEASURE, doctor.Machine(**{**vars(HERE), **changes}))
    assert found.works == (not reason)
    assert reason in found.reason


def test_a_hidden_gpu_is_told(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = doctor.verdict(MEASURE, HERE)
    assert (found.works, found.remedy) == (False, "unset CUDA_VISIBLE_DEVICES")


def test_a_compiler_that_does_not_work_is_told(attncast, alone, monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    assert all(tried.works for tried in machine.assemblers())
    monkeypatch.setenv("TRITON_PTXAS_PATH", "/nowhere/ptxas")
    tried = machine.assemblers()[0]
    assert not tried.works
    assert "No such file" in tried.problem
    _, out, _ = attncast("doctor")
    assert any(line.startswith("check ") and "NO" in line and "/nowhere/ptxas" in line for line in out.splitlines())


def test_the_build_of_torch_is_read_without_importing_it(monkeypatch, tmp_path):
    (tmp_path / "version.py").write_text("from typing import Optional\ncuda: Optional[str] = '12.8'\nhip = None\n")
    spec = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: spec)
    assert machine.torch_cuda() == "12.8"
    (tmp_path / "version.py").write_text("cuda: Optional[str] = None\nhip: Optional[str] = '6.0'\n")
    assert machine.torch_cuda() is None


def test_caches_that_cannot_be_written_are_told(tmp_path, monkeypatch, attncast, alone):
    (tmp_path / "file").write_text("")
    assert machine.writable(tmp_path / "not" / "yet" / "made")
    assert not machine.writable(tmp_path / "file" / "below")
    monkeypatch.setenv("ATTNCAST_CACHE_DIR", str(tmp_path / "file"))
    _, out, _ = attncast("doctor")
    assert f"{tmp_path / 'file'} CANNOT be written" in out


def test_a_core_that_does_not_work_ends_with_status_1(attncast, alone, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such table")

    monkeypatch.setattr(sys.modules["attncast.simulator"], "predict", broken)
    status, out, _ = attncast("doctor")
    assert status == 1
    assert out.splitlines()[-1] == "The core does NOT work: RuntimeError: no such table"


def test_nothing_heavy_is_imported():
    code = (
        "import sys; sys.argv = ['attncast', 'doctor', '--json']\n"
        "from attncast.cli import main\nmain()\n"
        "heavy = {'torch', 'triton', 'pandas', 'scipy', 'matplotlib', 'networkx', 'jinja2', 'distributed', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"

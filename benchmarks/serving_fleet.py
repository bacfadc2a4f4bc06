"""Decides how thousands of models come to a daemon: copies of a trained one, published through the registry.

Each copy is a version of its own under a name of its own, with its own folder; adapters get random numbers, since what
an adapter holds does not change what it costs.
"""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.appliance import exported_folder
from reflexd.engine.adapters import Adapter, Kind, to_files
from reflexd.engine.backbone import EncoderDescription, read_description
from reflexd.registry import artifacts

RANK = 8


def publish_copies(data_dir: Path, name: str, prefix: str, count: int, kind: Kind | None = None) -> None:
    """Publish `count` copies of the model `name` as prefix-0, prefix-1, ...; the daemon must not be running."""
    models = data_dir / "models"
    described = read_description(exported_folder("int8")) if kind else None
    assert described is not None or kind is None
    database = sqlite3.connect(data_dir / "reflexd.db")
    database.row_factory = sqlite3.Row
    version = dict(database.execute("SELECT * FROM model_versions WHERE name = ?", (name,)).fetchone())
    job = dict(database.execute("SELECT * FROM jobs WHERE id = ?", (version["job_id"],)).fetchone())
    job.pop("seq", None)
    head, manifest = artifacts.load(models, version["id"])
    domain = artifacts.load_domain(models, version["id"], manifest)
    random = np.random.default_rng(0)
    with database:
        for number in range(count):
            adapter = _adapter(described, kind, random) if kind and described else None
            manifest.adapter = adapter.reference() if adapter else None
            model_id = secrets.token_hex(16)
            more = to_files(adapter) if adapter else {}
            copy = msgspec.structs.replace(manifest)
            artifacts.publish(models, model_id, head, copy, domain=domain, more=more)
            job_id, copied = f"ftjob-{secrets.token_hex(12)}", f"{prefix}-{number}"
            _insert(database, "jobs", job | {"id": job_id, "suffix": copied, "idempotency_key": None})
            _insert(database, "model_versions", version | {"id": model_id, "job_id": job_id, "name": copied})
            _insert(database, "model_names", {"tenant_id": version["tenant_id"], "name": copied, "last_version": 1})
    database.close()


def _insert(database: sqlite3.Connection, table: str, values: dict[str, object]) -> None:
    known = {row["name"] for row in database.execute(f"PRAGMA table_info({table})")}
    values = {name: value for name, value in values.items() if name in known}
    marks = ", ".join("?" * len(values))
    database.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))


def _adapter(described: EncoderDescription, kind: Kind, random: np.random.Generator) -> Adapter:
    """Return an adapter of all layers that changes little."""
    tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float16]]] = {}
    if kind == "biases":
        for bias, size in described.biases.items():
            tensors[bias] = (random.normal(size=size) * 0.01).astype(np.float16)
    else:
        for weight, (out, into) in described.weights.items():
            layer = weight.removesuffix(".weight")
            tensors[f"{layer}.lora_A.weight"] = (random.normal(size=(RANK, into)) * 0.01).astype(np.float16)
            tensors[f"{layer}.lora_B.weight"] = (random.normal(size=(out, RANK)) * 0.01).astype(np.float16)
    return Adapter(kind, tensors)

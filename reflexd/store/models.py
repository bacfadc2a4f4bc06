"""Decides what a served name means: its versions, the latest of which answers; held in memory for the predict path.

A name is looked for among the tenant's served names, then its job ids, then as `name@version`, and last among the
default Reflexes, which belong to nobody: whoever trains a model of a default's name has it shadowed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from reflexd.store.database import Database, Transaction

OURS = "reflexd"
"""The owner of the default Reflexes; no tenant's id is like it."""


class ModelVersion(Struct, frozen=True, kw_only=True):
    """One trained version; `id` is the random name of its directory."""

    id: str
    tenant_id: str
    name: str
    version: int
    job_id: str
    labels: list[str]
    mode: str
    backbone: str
    precision: str
    result: dict[str, Any] | None
    created_at: int

    @property
    def is_default(self) -> bool:
        """Whether it is a default Reflex and nobody's own model."""
        return self.tenant_id == OURS


class ModelStore:
    """The table of versions and an index in memory: (tenant, name or job id) -> versions, ascending."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_name: dict[tuple[str, str], list[ModelVersion]] = {}
        self._by_job: dict[tuple[str, str], ModelVersion] = {}
        self._by_id: dict[str, ModelVersion] = {}
        self._defaults: dict[str, ModelVersion] = {}
        self.generation = 0
        """Grows whenever what a name means may have changed."""

    async def load(self) -> None:
        """Read every version into memory."""
        self._by_name, self._by_job, self._by_id = {}, {}, {}
        for row in await self._database.rows("SELECT * FROM model_versions ORDER BY version"):
            self.add(_version(row))

    def add(self, version: ModelVersion) -> None:
        """Let a committed version answer from now on."""
        self.generation += 1
        self._by_name.setdefault((version.tenant_id, version.name), []).append(version)
        self._by_job[version.tenant_id, version.job_id] = version
        self._by_id[version.id] = version

    def forget(self, ids: Sequence[str]) -> None:
        """Stop serving versions whose rows are deleted."""
        self.generation += 1
        for version in [self._by_id.pop(i) for i in ids if i in self._by_id]:
            del self._by_job[version.tenant_id, version.job_id]
            key = (version.tenant_id, version.name)
            self._by_name[key] = [v for v in self._by_name[key] if v.id != version.id]
            if not self._by_name[key]:
                del self._by_name[key]

    def add_default(self, version: ModelVersion, aliases: Sequence[str]) -> None:
        """Let a default Reflex answer to its name and aliases, for every tenant that has no model of that name."""
        self.generation += 1
        self._by_id[version.id] = version
        for name in (version.name, *aliases):
            self._defaults[name] = version

    def resolve(self, tenant_id: str, name: str) -> ModelVersion | None:
        """Return the version that a name, a job id or name@version means; never another tenant's."""
        if versions := self._by_name.get((tenant_id, name)):
            return versions[-1]
        if version := self._by_job.get((tenant_id, name)):
            return version
        served, at, number = name.rpartition("@")
        default = self._defaults.get(served if at else name)
        own = self._by_name.get((tenant_id, served if default is None else default.name))
        if not at:  # an alias of a default means the own model that shadows it
            return own[-1] if own and default is not None else default
        candidates = own if own is not None else [default] if default is not None else []
        return next((version for version in candidates if str(version.version) == number), None)

    def of_id(self, model_id: str) -> ModelVersion | None:
        """Return the version whose directory has this name, whoever owns it; None once it is deleted."""
        return self._by_id.get(model_id)

    def of_job(self, tenant_id: str, job_id: str) -> ModelVersion | None:
        """Return the version that a job made, if it made one."""
        return self._by_job.get((tenant_id, job_id))

    def versions(self, tenant_id: str, name: str) -> list[ModelVersion]:
        """Return all versions of a served name, ascending."""
        return list(self._by_name.get((tenant_id, name), ()))

    def defaults(self) -> list[ModelVersion]:
        """Return every default Reflex, by name."""
        return sorted({v.id: v for v in self._defaults.values()}.values(), key=lambda version: version.name)

    def names(self, tenant_id: str | None = None) -> list[list[ModelVersion]]:
        """Return the versions of each served name of a tenant (None: of all), latest trained first."""
        found = [list(v) for (tenant, _), v in self._by_name.items() if tenant_id in (None, tenant)]
        return sorted(found, key=lambda versions: (versions[-1].created_at, versions[-1].id), reverse=True)

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._by_id

    def ids(self) -> set[str]:
        """Return the directory names of all versions."""
        return set(self._by_id)


async def insert_version(
    tx: Transaction,
    *,
    model_id: str,
    tenant_id: str,
    name: str,
    job_id: str,
    labels: list[str],
    mode: str,
    backbone: str,
    precision: str,
    result: dict[str, Any],
) -> ModelVersion:
    """Give a name its next version, inside the transaction that ends the job."""
    numbered = await tx.row(
        "INSERT INTO model_names (tenant_id, name, last_version) VALUES (?, ?, 1) "
        "ON CONFLICT DO UPDATE SET last_version = last_version + 1 RETURNING last_version",
        (tenant_id, name),
    )
    assert numbered is not None
    made = ModelVersion(
        id=model_id,
        tenant_id=tenant_id,
        name=name,
        version=numbered["last_version"],
        job_id=job_id,
        labels=labels,
        mode=mode,
        backbone=backbone,
        precision=precision,
        result=result,
        created_at=int(time.time()),
    )
    columns = msgspec.to_builtins(made) | {
        "labels": msgspec.json.encode(labels).decode(),
        "result": msgspec.json.encode(result).decode(),
    }
    names = ", ".join(columns)
    await tx.run(
        f"INSERT INTO model_versions ({names}) VALUES ({', '.join('?' * len(columns))})",  # noqa: S608
        tuple(columns.values()),
    )
    return made


def _version(row: sqlite3.Row) -> ModelVersion:
    given = dict(row)
    given["labels"] = msgspec.json.decode(given["labels"])
    given["result"] = msgspec.json.decode(given["result"]) if given["result"] else None
    return msgspec.convert(given, ModelVersion)

"""Decides what the store is made of: one database, its tables' objects and the signals that its commits send."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from reflexd.store.batches import BatchStore
from reflexd.store.database import Database
from reflexd.store.deletions import DeletionStore
from reflexd.store.events import EventStore
from reflexd.store.files import FileStore
from reflexd.store.jobs import JobStore
from reflexd.store.keys import KeyStore
from reflexd.store.models import ModelStore, ModelVersion
from reflexd.store.signals import Signals
from reflexd.store.webhooks import WebhookStore

DATABASE = "reflexd.db"


class Store:
    """Everything that is remembered; made by `open`, ended by `close`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.signals = Signals()
        self.keys = KeyStore(database, self.signals)
        self.models = ModelStore(database)
        self.jobs = JobStore(database, self.models, self.signals)
        self.events = EventStore(database)
        self.files = FileStore(database)
        self.webhooks = WebhookStore(database, self.signals)
        self.batches = BatchStore(database, self.signals)
        self.deletions = DeletionStore(database, self.models, self.signals)

    @classmethod
    async def open(cls, data_dir: Path) -> Store:
        """Open and migrate data_dir/reflexd.db and read keys and model names into memory."""
        store = cls(await Database.open(data_dir / DATABASE, data_dir / "backups"))
        try:
            await store.keys.load()
            await store.models.load()
        except BaseException:
            await store.close()
            raise
        return store

    async def resolve(self, tenant_id: str, name: str) -> ModelVersion | Literal["waiting"] | None:
        """Return the version that a name means, "waiting" where its job has not ended yet, None where it means nothing.

        An own model that is not trained yet shadows a default Reflex of its name already, in all of that one's
        spellings: no other model may answer for it. Asks the database only where no own model answers.
        """
        version = self.models.resolve(tenant_id, name)
        if version is not None and not version.is_default:
            return version
        for shadowing in {name, name.rpartition("@")[0], version.name} if version is not None else {name}:
            if shadowing and await self.jobs.waiting(tenant_id, shadowing):
                return "waiting"
        return version

    async def close(self) -> None:
        """Close the database; calling it again does nothing."""
        await self.database.close()

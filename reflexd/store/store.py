"""Decides what the store is made of: one database, its tables' objects and the signals that its commits send."""

from __future__ import annotations

from pathlib import Path

from reflexd.store.database import Database
from reflexd.store.deletions import DeletionStore
from reflexd.store.events import EventStore
from reflexd.store.jobs import JobStore
from reflexd.store.keys import KeyStore
from reflexd.store.models import ModelStore
from reflexd.store.signals import Signals

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

    async def close(self) -> None:
        """Close the database; calling it again does nothing."""
        await self.database.close()

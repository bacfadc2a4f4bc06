"""Decides whether the daemon can serve at present, and names every reason why it cannot."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from reflexd.errors import ReflexError
from reflexd.store.database import Database

NEEDED_BYTES = 32 << 20


class Readiness:
    """The reasons for not being ready, by the part that gives each."""

    def __init__(self, database: Database, data_dir: Path) -> None:
        self._database = database
        self._data_dir = data_dir
        self._reasons: dict[str, str] = {"backbone": "the sentence encoder is being loaded"}

    def block(self, part: str, reason: str) -> None:
        """Be not ready because of this part."""
        self._reasons[part] = reason

    def clear(self, part: str) -> None:
        """This part is ready now."""
        self._reasons.pop(part, None)

    async def reasons(self) -> dict[str, str]:
        """Return why the daemon is not ready; empty when it is. Asks the database and the disk for a sign of life."""
        found = dict(self._reasons)
        try:
            await self._database.row("SELECT 1 FROM sqlite_schema LIMIT 1")
        except (
            ReflexError,
            sqlite3.Error,
            ValueError,
        ) as error:  # ValueError: aiosqlite's word for a closed connection
            found["database"] = f"the database does not answer ({type(error).__name__})"
        try:
            disk = os.statvfs(self._data_dir)
            if disk.f_bavail * disk.f_frsize < NEEDED_BYTES:
                found["disk"] = f"less than {NEEDED_BYTES >> 20} MB are free for the data directory"
        except OSError as error:
            found["disk"] = f"the data directory cannot be looked at ({error.strerror})"
        return found

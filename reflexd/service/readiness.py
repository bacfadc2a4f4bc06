"""Decides whether the daemon can serve at present, and names every reason why it cannot."""

from __future__ import annotations

from reflexd.errors import Unavailable
from reflexd.store.database import Database


class Readiness:
    """The reasons for not being ready, by the part that gives each."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reasons: dict[str, str] = {"backbone": "the sentence encoder is being loaded"}

    def block(self, part: str, reason: str) -> None:
        """Be not ready because of this part."""
        self._reasons[part] = reason

    def clear(self, part: str) -> None:
        """This part is ready now."""
        self._reasons.pop(part, None)

    async def reasons(self) -> dict[str, str]:
        """Return why the daemon is not ready; empty when it is. Asks the database for a sign of life."""
        found = dict(self._reasons)
        try:
            await self._database.row("SELECT 1")
        except (Unavailable, ValueError, OSError) as error:  # ValueError: aiosqlite's word for a closed connection
            found["database"] = f"the database does not answer ({type(error).__name__})"
        return found

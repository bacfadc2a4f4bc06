"""Decides how labelled rows in the request itself (`training_data`) become training rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from reflexd import DataSource, Example, InvalidInput, SourceContext, hookimpl


class InlineRows:
    """The `training_data` field: a list of {"text", "label"}."""

    name = "training_data"

    def check(self, payload: Any, labels: Sequence[str]) -> Sequence[Example] | None:  # noqa: ARG002
        """Return the rows, or name the one that is not a text with a label."""
        try:
            return msgspec.convert(payload, list[Example])
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            raise InvalidInput(message, path.rstrip("`")) from error

    def rows(self, payload: Any, context: SourceContext) -> Iterable[Example]:
        """Yield the rows in the order of the request."""
        return self.check(payload, context.labels) or ()


@hookimpl
def register_data_sources(register: Callable[[DataSource], None]) -> None:
    """Offer `training_data`."""
    register(InlineRows())

"""Decides how labelled rows in the request itself (`training_data`) become training rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from reflexd import DataSource, Example, SourceContext, hookimpl


class InlineRows:
    """The `training_data` field: a list of {"text", "label"}, or {"text", "labels"} where a text has several or none.

    Both may stand in one list; the job is multi_label where any row has `labels`.
    """

    name = "training_data"
    payload_type = list[Example]

    def check(self, payload: list[Example], labels: Sequence[str]) -> Sequence[Example] | None:  # noqa: ARG002
        """Return the rows as they are."""
        return payload

    def rows(self, payload: list[Example], context: SourceContext) -> Iterable[Example]:  # noqa: ARG002
        """Yield the rows in the order of the request."""
        return payload


@hookimpl
def register_data_sources(register: Callable[[DataSource], None]) -> None:
    """Offer `training_data`."""
    register(InlineRows())

"""Decides what the `label_data` field may hold: the user's own texts, which a local LLM sorts into given labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from reflexd import DataSource, Example, InvalidInput, SourceContext, hookimpl

MIN_LABELS = 2


class LabelData(Struct, kw_only=True):
    """The field's content (spec 1.2)."""

    texts: Annotated[list[str], Meta(min_length=10, max_length=20_000)]
    description: Annotated[str, Meta(max_length=20_000)] | None = None


class LabelledRows:
    """The `label_data` field."""

    name = "label_data"
    payload_type = LabelData
    needs_llm = True

    def check(self, payload: LabelData, labels: Sequence[str]) -> None:
        """Check what the field's type does not say; the labels are known only when the texts are sorted."""
        for number, text in enumerate(payload.texts):
            if not text or text.isspace():
                raise InvalidInput("The text is empty", f".texts[{number}]")
        if len(labels) < MIN_LABELS:
            raise InvalidInput(f"label_data needs at least {MIN_LABELS} labels", "labels")

    def rows(self, payload: LabelData, context: SourceContext) -> Iterable[Example]:  # noqa: ARG002
        """Refuse: without a local LLM there is nobody to sort the texts."""
        raise InvalidInput("No local LLM is set up on this machine")


@hookimpl
def register_data_sources(register: Callable[[DataSource], None]) -> None:
    """Offer `label_data`."""
    register(LabelledRows())

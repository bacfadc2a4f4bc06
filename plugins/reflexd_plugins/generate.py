"""Decides what the `generate` field may hold: a description from which a local LLM writes rows for given labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from reflexd import DataSource, Example, InvalidInput, SourceContext, hookimpl

MIN_LABELS = 2


class Generate(Struct, kw_only=True):
    """The field's content (spec 1.2; bounds: section 7, row 1)."""

    description: Annotated[str, Meta(min_length=1, max_length=20_000)]
    examples_per_label: Annotated[int, Meta(ge=5, le=1_000)] = 500


class GeneratedRows:
    """The `generate` field."""

    name = "generate"
    payload_type = Generate
    needs_llm = True

    def check(self, payload: Generate, labels: Sequence[str]) -> None:
        """Check what the field's type does not say; the rows are known only when they are written."""
        if payload.description.isspace():
            raise InvalidInput("The description is empty", ".description")
        if len(labels) < MIN_LABELS:
            raise InvalidInput(f"generate needs at least {MIN_LABELS} labels", "labels")

    def rows(self, payload: Generate, context: SourceContext) -> Iterable[Example]:  # noqa: ARG002
        """Refuse: without a local LLM there is nobody to write rows."""
        raise InvalidInput("No local LLM is set up on this machine")


@hookimpl
def register_data_sources(register: Callable[[DataSource], None]) -> None:
    """Offer `generate`."""
    register(GeneratedRows())

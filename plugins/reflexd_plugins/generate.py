"""Decides what the `generate` field may hold: a description from which a local LLM writes rows for given labels.

How that is done stands in generation.py, which is imported when it is: it takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

from msgspec import Meta, Struct, field

from reflexd import BY_USER, DataSource, Example, InvalidInput, MadeRow, SourceContext, hookimpl
from reflexd_plugins.label_words import check_lines, described

MIN_LABELS = 2
MOST_ROWS = 50_000
"""That one job writes: as many as it may be trained on by default."""


class Generate(Struct, kw_only=True):
    """The field's content (spec 1.2; bounds: section 7, row 1)."""

    description: Annotated[str, Meta(min_length=1, max_length=20_000)]
    examples_per_label: Annotated[int, Meta(ge=5, le=1_000)] = 500
    label_descriptions: dict[str, Annotated[str, Meta(max_length=2_000)]] = field(default_factory=dict)
    """A line about a label; one may stand in the description too, behind the label and a colon."""
    seed_examples: Annotated[list[Example], Meta(max_length=1_000)] = field(default_factory=list)
    """Rows of the user's own, which show the style and are trained on too."""


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
        if len(labels) * payload.examples_per_label > MOST_ROWS:
            raise InvalidInput(
                f"{len(labels)} labels with {payload.examples_per_label} examples each are more than {MOST_ROWS} rows",
                ".examples_per_label",
            )
        check_lines(payload.label_descriptions, labels)
        for number, row in enumerate(payload.seed_examples):
            if not row.text.strip():
                raise InvalidInput("The text is empty", f".seed_examples[{number}].text")
            if row.label not in labels:
                raise InvalidInput("The row's label is not among `labels`", f".seed_examples[{number}].label")

    def rows(self, payload: Generate, context: SourceContext) -> Iterable[Example]:
        """Yield the user's own rows, then each round's accepted texts."""
        from reflexd_plugins.generation import written

        labels = list(context.labels)
        about = described(labels, payload.description, payload.label_descriptions)
        seeds: dict[int, list[str]] = {number: [] for number in range(len(labels))}
        for row in payload.seed_examples:
            assert row.label is not None
            seeds[labels.index(row.label)].append(row.text)
            yield MadeRow(row.text, row.label, probability=1.0, decided_by=BY_USER)
        yield from written(payload.examples_per_label, labels, about, seeds, context)


@hookimpl
def register_data_sources(register: Callable[[DataSource], None]) -> None:
    """Offer `generate`."""
    register(GeneratedRows())

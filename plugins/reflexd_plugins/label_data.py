"""Decides what the `label_data` field may hold: the user's own texts, which are sorted into given labels.

How that is done stands in labelling.py, which is imported when it is: it takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

from msgspec import Meta, Struct, field

from reflexd import DataSource, Example, InvalidInput, SourceContext, hookimpl
from reflexd_plugins.label_words import check_lines, described

MIN_LABELS = 2
MAX_TEXT_CHARS = 20_000
"""Of a text that is to be labelled: what it is about must be plain from less."""


class LabelData(Struct, kw_only=True):
    """The field's content (spec 1.2)."""

    texts: Annotated[list[str], Meta(min_length=10, max_length=20_000)]
    description: Annotated[str, Meta(max_length=20_000)] | None = None
    label_descriptions: dict[str, Annotated[str, Meta(max_length=2_000)]] = field(default_factory=dict)
    """A line about a label; one may stand in the description too, behind the label and a colon."""


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
            if "\0" in text:
                raise InvalidInput("The text contains a NUL character", f".texts[{number}]")
            if len(text) > MAX_TEXT_CHARS:
                raise InvalidInput(f"The text has more than {MAX_TEXT_CHARS} characters", f".texts[{number}]")
        if len(labels) < MIN_LABELS:
            raise InvalidInput(f"label_data needs at least {MIN_LABELS} labels", "labels")
        check_lines(payload.label_descriptions, labels)

    def rows(self, payload: LabelData, context: SourceContext) -> Iterable[Example]:
        """Yield the texts that fit a label, in their order, each once."""
        from reflexd_plugins.labelling import labelled

        for number, text in enumerate(payload.texts):  # before minutes are spent on the others
            if len(text) > context.text_chars:
                raise InvalidInput(f"The text has more than {context.text_chars} characters", f".texts[{number}]")
        about = described(context.labels, payload.description, payload.label_descriptions)
        return labelled(list(dict.fromkeys(payload.texts)), about, context)


@hookimpl
def register_data_sources(register: Callable[[DataSource], None]) -> None:
    """Offer `label_data`."""
    register(LabelledRows())

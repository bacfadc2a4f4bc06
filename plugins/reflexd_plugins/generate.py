"""Decides how `generate` writes a training set from a description: many texts, and of each two opinions.

In rounds: for each label that lacks rows texts are written; near-repetitions are dropped; the sentence encoder must
find that a text is nearer to its own label than to any other, and the LLM that it is likelier under it. What is
accepted never depends on time, so that a job that was killed makes the same rows again from the answers it has kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct, field

from reflexd import DataSource, Example, InvalidInput, SourceContext, hookimpl
from reflexd_plugins import noisy_channel
from reflexd_plugins.label_words import Described, check_lines, described
from reflexd_plugins.noisy_channel import Question
from reflexd_plugins.progress import told
from reflexd_plugins.proposals import SHARPNESS, Matrix, anchors, normalised, unit
from reflexd_plugins.writing import Ask

MIN_LABELS = 2
AT_ONCE = 24
"""Texts that are asked for each label in a round, and more where much is missing."""
SHARE_TAKEN = 0.35
"""Of the texts that are written some such share is accepted; so many more are asked for than are missing."""
MOST_CALLS = 12
"""Texts that may be written for each that is wanted; then what is there must do."""
ALIKE = 0.9
"""Cosine from which two texts of a label say the same."""
GAP = 0.1
"""By how much, in cosines, a text must be nearer to its label than to any other."""
NEAR = 0.2
SEED = 0


class Generate(Struct, kw_only=True):
    """The field's content (spec 1.2; bounds: section 7, row 1)."""

    description: Annotated[str, Meta(min_length=1, max_length=20_000)]
    examples_per_label: Annotated[int, Meta(ge=5, le=1_000)] = 500
    label_descriptions: dict[str, Annotated[str, Meta(max_length=2_000)]] = field(default_factory=dict)
    """A line about a label; one may stand in the description too, behind the label and a colon."""
    seed_examples: Annotated[list[Example], Meta(max_length=1_000)] = field(default_factory=list)
    """Rows of the user's own, which show the style and are trained on too."""


class GeneratedRow(Example, frozen=True, kw_only=True):
    """A made row."""

    probability: float
    decided_by: str


class Pool:
    """What has been accepted, and what the encoder thinks of a text."""

    def __init__(self, context: SourceContext, about: Sequence[Described]) -> None:
        self._embed = context.embed
        self._anchors = anchors(context.embed, about)
        self._middle: Matrix | None = None
        self._kept: list[list[Matrix]] = [[] for _ in about]

    def add(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """Take texts that are surely of their labels."""
        for vector, label in zip(self._embed(texts) if texts else (), labels, strict=True):
            self._kept[label].append(vector)

    def opinions(self, texts: Sequence[str]) -> tuple[Matrix, Matrix]:
        """Return vectors [texts, width], and cosines [texts, labels] without what all texts have in common."""
        vectors = self._embed(texts)
        if self._middle is None:  # of the first round, for good: later rounds are judged as it was
            self._middle = vectors.mean(axis=0)
        own = unit(self._anchors - self._anchors.mean(axis=0))
        return vectors, unit(vectors - self._middle) @ own.T

    def is_new(self, vector: Matrix, label: int) -> bool:
        """Whether nothing accepted says the same."""
        return not self._kept[label] or float((np.stack(self._kept[label]) @ vector).max()) < ALIKE

    def take(self, vector: Matrix, label: int) -> None:
        """Accept a text."""
        self._kept[label].append(vector)


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
        check_lines(payload.label_descriptions, labels)
        for number, row in enumerate(payload.seed_examples):
            if not row.text.strip():
                raise InvalidInput("The text is empty", f".seed_examples[{number}].text")
            if row.label not in labels:
                raise InvalidInput("The row's label is not among `labels`", f".seed_examples[{number}].label")

    def rows(self, payload: Generate, context: SourceContext) -> Iterable[Example]:
        """Yield the user's own rows, then each round's accepted texts."""
        labels = list(context.labels)
        about = described(labels, payload.description, payload.label_descriptions)
        seeds: dict[int, list[str]] = {number: [] for number in range(len(labels))}
        for row in payload.seed_examples:
            assert row.label is not None
            seeds[labels.index(row.label)].append(row.text)
            yield GeneratedRow(row.text, row.label, probability=1.0, decided_by="user")
        pool = Pool(context, about)
        for label, texts in seeds.items():
            pool.add(texts, [label] * len(texts))
        yield from self._rounds(payload.examples_per_label, labels, about, seeds, pool, context)

    def _rounds(
        self,
        wanted: int,
        labels: Sequence[str],
        about: Sequence[Described],
        seeds: Mapping[int, Sequence[str]],
        pool: Pool,
        context: SourceContext,
    ) -> Iterator[Example]:
        have = {label: len(texts) for label, texts in seeds.items()}
        asked, written, began = dict.fromkeys(have, 0), 0, time.monotonic()
        for number in range(10_000):
            missing = {
                label: min(int(np.ceil((wanted - have[label]) / SHARE_TAKEN)), MOST_CALLS * wanted - asked[label])
                for label in have
                if have[label] < wanted and asked[label] < MOST_CALLS * wanted
            }
            if not missing:
                break
            asks = [
                (label, Ask(f"{number}-{label}-{place}", about[label], seeds[label], SEED))
                for label, count in missing.items()
                for place in range(min(count, max(AT_ONCE, wanted // 2)))
            ]
            for label, _ in asks:
                asked[label] += 1
            texts = self._write(number, asks, context)
            written += len(asks)
            for row, label in self._accept(number, texts, labels, about, pool, context):
                if have[label] < wanted:
                    have[label] += 1
                    yield row
            told_of = ", ".join(f"{labels[label]} {count}" for label, count in have.items())
            rate = sum(have.values()) / (time.monotonic() - began)
            share = sum(have.values()) / max(1, written)
            context.emit(f"Of {wanted} a label: {told_of}; {share:.0%} of {written} accepted, {rate:.2f} rows a second")
        short = [labels[label] for label, count in have.items() if count < wanted]
        if short:
            context.emit(f"Fewer than {wanted} after {MOST_CALLS * wanted} tries: {', '.join(short)}")

    @staticmethod
    def _write(number: int, asks: Sequence[tuple[int, Ask]], context: SourceContext) -> list[tuple[int, str]]:
        """Return the different texts that were written, each with its label."""
        assert context.llm is not None
        answers = context.llm.batch(f"write-{number}", (ask.request() for _, ask in asks))
        found: dict[tuple[int, str], None] = {}
        for (label, ask), answer in zip(asks, told(answers, len(asks), "texts written", context.emit), strict=True):
            if (text := ask.text(answer)) is not None:
                found[label, text] = None
        return list(found)

    @staticmethod
    def _accept(
        number: int,
        texts: Sequence[tuple[int, str]],
        labels: Sequence[str],
        about: Sequence[Described],
        pool: Pool,
        context: SourceContext,
    ) -> Iterator[tuple[Example, int]]:
        """Yield the texts on whose label both opinions agree."""
        assert context.llm is not None
        if not texts:
            return
        vectors, near = pool.opinions([text for _, text in texts])
        places = np.arange(len(texts))
        own = np.array([label for label, _ in texts])
        others = near.copy()
        others[places, own] = -2.0
        rival, to_own = others.argmax(axis=1), near[places, own]
        agreed = np.flatnonzero((to_own - others.max(axis=1) > GAP) & (to_own > NEAR))
        prompts = [noisy_channel.prompt(one) for one in about]
        pairs = sorted({(int(label), int(place)) for place in agreed for label in (own[place], rival[place])})
        questions = (Question(f"{place}-{label}", texts[place][1], label) for label, place in pairs)
        likely = noisy_channel.likelihoods(context.llm, f"judge-{number}", questions, prompts)
        judged = dict(zip(pairs, likely, strict=True))
        sure = np.exp(normalised(near.astype(np.float64) / SHARPNESS))[places, own]
        for place in map(int, agreed):
            label, text = texts[place]
            if judged[label, place] > judged[int(rival[place]), place] and pool.is_new(vectors[place], label):
                pool.take(vectors[place], label)
                probability = round(float(sure[place]), 4)
                yield GeneratedRow(text, labels[label], probability=probability, decided_by="encoder and llm"), label


@hookimpl
def register_data_sources(register: Callable[[DataSource], None]) -> None:
    """Offer `generate`."""
    register(GeneratedRows())

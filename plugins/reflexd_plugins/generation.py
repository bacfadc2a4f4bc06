"""Decides how a training set is written: in rounds, with two opinions of each text.

For each label that lacks rows texts are written; near-repetitions are dropped; the sentence encoder must find that a
text is nearer to its own label than to any other, and the LLM that it is likelier under it. What is accepted never
depends on time, so that a job that was killed makes the same rows again from the answers it has kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reflexd import Example, InvalidInput, MadeRow, SourceContext
from reflexd_plugins import noisy_channel
from reflexd_plugins.label_words import Described
from reflexd_plugins.noisy_channel import Question
from reflexd_plugins.progress import told
from reflexd_plugins.proposals import SHARPNESS, Matrix, anchors, centred, normalised, unit
from reflexd_plugins.writing import Ask

AT_ONCE = 24
"""Texts that are asked for each label in a round at least, and more where much is missing."""
SHARE_TAKEN = 0.35
"""Of the texts that are written some such share is accepted; so many more are asked for than are missing."""
MOST_AT_ONCE = 4_000
"""Texts of one round."""
MOST_NAMED = 10
MOST_CALLS = 12
"""Texts that may be written for each that is wanted; then what is there must do."""
ALIKE = 0.9
"""Cosine from which two texts of a label say the same."""
GAP = 0.05
"""By how much, in cosines, a text must be nearer to its label than to any other."""
NEAR = 0.2
JUDGED_BEYOND = 1.25
"""Times as many texts as are missing are judged at once: nearly all that the encoder agrees on are likelier, too."""
SEED = 0


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
        own = centred(self._anchors)
        return vectors, unit(vectors - self._middle) @ own.T

    def is_new(self, vector: Matrix, label: int) -> bool:
        """Whether nothing accepted says the same."""
        return not self._kept[label] or float((np.stack(self._kept[label]) @ vector).max()) < ALIKE

    def take(self, vector: Matrix, label: int) -> None:
        """Accept a text."""
        self._kept[label].append(vector)


def written(
    wanted: int,
    labels: Sequence[str],
    about: Sequence[Described],
    seeds: Mapping[int, Sequence[str]],
    context: SourceContext,
) -> Iterator[Example]:
    """Yield each round's accepted texts, until each label has `wanted` rows with its `seeds`, or no tries are left."""
    pool = Pool(context, about)
    for label, own in seeds.items():
        pool.add(own, [label] * len(own))
    have = {label: len(texts) for label, texts in seeds.items()}
    asked, tried, began = dict.fromkeys(have, 0), 0, time.monotonic()
    for number in range(10_000):
        most = MOST_CALLS * wanted
        short = [label for label in have if have[label] < wanted and asked[label] < most]
        if not short:
            break
        fair = max(AT_ONCE, MOST_AT_ONCE // len(short))
        asks = []
        for label in short[: MOST_AT_ONCE // AT_ONCE]:
            needed = int(np.ceil((wanted - have[label]) / SHARE_TAKEN))
            count = min(max(AT_ONCE, needed), fair, most - asked[label])
            asks += [
                (label, Ask(f"{number}-{label}-{place}", about[label], seeds[label], SEED)) for place in range(count)
            ]
        for label, _ in asks:
            asked[label] += 1
        texts = _write(number, asks, context)
        tried += len(asks)
        missing = {label: wanted - have[label] for label in short}
        for row, label in _accept(number, texts, missing, labels, about, pool, context):
            have[label] += 1
            yield row
        named = [label for label in have if have[label] < wanted][:MOST_NAMED] or list(have)[:MOST_NAMED]
        told_of = ", ".join(f"{labels[label]} {have[label]}" for label in named)
        rate = sum(have.values()) / (time.monotonic() - began)
        share = sum(have.values()) / max(1, tried)
        context.emit(f"Of {wanted} a label: {told_of}; {share:.0%} of {tried} accepted, {rate:.2f} rows a second")
    few = [labels[label] for label, count in have.items() if count < wanted]
    if few:
        more = f" and {len(few) - MOST_NAMED} more" if len(few) > MOST_NAMED else ""
        context.emit(f"Fewer than {wanted} after {MOST_CALLS * wanted} tries: {', '.join(few[:MOST_NAMED])}{more}")


def _write(number: int, asks: Sequence[tuple[int, Ask]], context: SourceContext) -> list[tuple[int, str]]:
    """Return the different texts that were written, each with its label."""
    assert context.llm is not None
    answers = context.llm.batch(f"write-{number}", (ask.request() for _, ask in asks))
    found: dict[tuple[int, str], None] = {}
    refused: list[str] = []
    for (label, ask), answer in zip(asks, told(answers, len(asks), "texts written", context.emit), strict=True):
        if answer.error is not None:
            refused.append(answer.error)
        elif (text := ask.text(answer)) is not None:
            found[label, text] = None
    if 2 * len(refused) > len(asks):
        raise InvalidInput(f"The local LLM refused {len(refused)} of {len(asks)} requests: {refused[0][:200]}")
    return list(found)


def _accept(
    number: int,
    texts: Sequence[tuple[int, str]],
    missing: dict[int, int],
    labels: Sequence[str],
    about: Sequence[Described],
    pool: Pool,
    context: SourceContext,
) -> Iterator[tuple[Example, int]]:
    """Yield the texts on whose label both opinions agree, at most as many as are `missing` of each label.

    The LLM judges a few more than are missing, and others only while some are missing still.
    """
    if not texts:
        return
    vectors, near = pool.opinions([text for _, text in texts])
    places = np.arange(len(texts))
    own = np.array([label for label, _ in texts])
    others = near.copy()
    others[places, own] = -2.0
    rival, to_own = others.argmax(axis=1), near[places, own]
    agreed = [int(place) for place in np.flatnonzero((to_own - others.max(axis=1) > GAP) & (to_own > NEAR))]
    sure = np.exp(normalised(near.astype(np.float64) / SHARPNESS))[places, own]
    rest: dict[int, list[int]] = {label: [] for label in missing}
    for place in agreed:
        if own[place] in rest and pool.is_new(vectors[place], int(own[place])):
            rest[int(own[place])].append(place)
    for part in range(len(agreed)):
        now: list[int] = []
        for label, waiting in rest.items():
            count = int(np.ceil(JUDGED_BEYOND * missing[label]))
            now += waiting[:count]
            del waiting[:count]
        if not now:
            break
        for place in _likelier(f"judge-{number}-{part}", now, texts, rival, about, context):
            label, text = texts[place]
            if missing[label] and pool.is_new(vectors[place], label):
                pool.take(vectors[place], label)
                missing[label] -= 1
                probability = round(float(sure[place]), 4)
                yield MadeRow(text, labels[label], probability=probability, decided_by="encoder and llm"), label


def _likelier(
    name: str,
    places: Sequence[int],
    texts: Sequence[tuple[int, str]],
    rival: NDArray[np.intp],
    about: Sequence[Described],
    context: SourceContext,
) -> list[int]:
    """Return the places of the texts that the LLM finds likelier under their own label than under the rival."""
    assert context.llm is not None
    prompts = [noisy_channel.prompt(one) for one in about]
    pairs = sorted({(int(label), place) for place in places for label in (texts[place][0], rival[place])})
    questions = (Question(f"{place}-{label}", texts[place][1], label) for label, place in pairs)
    judged = dict(zip(pairs, noisy_channel.likelihoods(context.llm, name, questions, prompts), strict=True))
    return [place for place in places if judged[texts[place][0], place] > judged[int(rival[place]), place]]

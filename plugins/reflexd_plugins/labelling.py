"""Decides how texts get labels: the encoder proposes, and the LLM judges where that is unsure.

What fits no label is left out. Each row says how likely its label is right, and who decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from reflexd import Example, InvalidInput, MadeRow, SourceContext
from reflexd_plugins import noisy_channel
from reflexd_plugins.label_words import Described
from reflexd_plugins.noisy_channel import Question
from reflexd_plugins.progress import told
from reflexd_plugins.proposals import (
    STRENGTH,
    Matrix,
    Places,
    Scores,
    anchors,
    centred,
    log_probabilities,
    margins,
    normalised,
    outside,
    propose,
    surest,
)

JUDGED_SHARE = 0.2
"""Of the texts, those with the least margin: of the others the encoder is right more often than a small model."""
MOST_JUDGED = 2_000
"""Each is judged under two labels: some 4,000 judgements, which take minutes on a processor."""
SEEDS = 4
WEIGHT = 0.2
"""Of the LLM's log odds beside the encoder's: over nine draws .9670 of all labels are right with it, .9653 without, and
with 1.0 fewer again. That is a model of 135 million parameters."""
FOLDS = 5
FEWEST_TEXTS = 10
"""That must be about the labels, as few as may be given."""
FEWEST_LABELS = 2
MOST_TOLD = 50
"""Labels whose counts an event tells."""
SEED = 0


def labelled(texts: Sequence[str], about: Sequence[Described], context: SourceContext) -> Iterable[Example]:
    """Yield the texts, which are all different, that fit a label, in their order."""
    labels = [one.label for one in about]
    context.emit(f"Reading {len(texts)} different texts")
    vectors, words = context.embed(texts), anchors(context.embed, about)
    inside = np.flatnonzero(~outside(vectors, words))
    count = len(texts) - len(inside)
    if len(inside) < FEWEST_TEXTS:
        raise InvalidInput(f"Only {len(inside)} of {len(texts)} texts are about any of the labels", ".texts")
    texts, vectors = [texts[place] for place in inside.tolist()], centred(vectors[inside])
    belief = propose(vectors, centred(words))
    judged = _judge(about, context, texts, belief)
    made, by = judged.belief.argmax(axis=1), set(judged.places.tolist())
    changed = int((made != belief.argmax(axis=1)).sum())
    context.emit(f"The LLM judged {len(by)} texts, and gave {changed} another label than the encoder")
    probability = calibrated(vectors, judged.belief)
    counts = Counter(labels[label] for label in made)
    each = ", ".join(f"{label} {counts[label]}" for label in labels[:MOST_TOLD])
    context.emit(f"Labelled: {each}; {count} texts fit no label and are left out")
    for place, text in enumerate(texts):
        decided_by = "encoder and llm" if place in by else "encoder"
        yield MadeRow(text, labels[made[place]], probability=round(float(probability[place]), 4), decided_by=decided_by)


def _judge(about: Sequence[Described], context: SourceContext, texts: Sequence[str], belief: Scores) -> Judged:
    """Let the LLM choose between the two likeliest labels of the texts that the encoder is unsure of."""
    assert context.llm is not None
    order = np.argsort(-belief, axis=1, kind="stable")
    count = min(MOST_JUDGED, int(np.ceil(JUDGED_SHARE * len(texts))))
    places = np.argsort(margins(belief), kind="stable")[:count]
    prompts = [
        noisy_channel.prompt(one, [texts[place] for place in seeds])
        for one, seeds in zip(about, _seeds(belief), strict=True)
    ]
    # By label: the LLM reads what is said of a label once for all of its texts.
    asked = sorted((int(label), int(place)) for place in places for label in order[place, :2])
    questions = (Question(f"{place}-{label}", texts[place], label) for label, place in asked)
    context.emit(f"The encoder is unsure of {len(places)} texts; the LLM judges them")
    likely = noisy_channel.likelihoods(context.llm, "judge", questions, prompts)
    found = dict(zip(asked, told(likely, len(asked), "judgements", context.emit), strict=True))
    out, heard = belief.copy(), []
    for place in places:
        first, second = (int(label) for label in order[place, :2])
        odds = found[first, int(place)] - found[second, int(place)]
        if np.isfinite(odds):
            heard.append(int(place))
            out[place, first] += WEIGHT * odds / 2
            out[place, second] -= WEIGHT * odds / 2
    if 2 * len(heard) < len(places):
        raise InvalidInput(
            f"The local LLM gave no likelihood for {len(places) - len(heard)} of {len(places)} texts: its "
            "/v1/completions must know echo and logprobs"
        )
    return Judged(normalised(out), np.array(heard, dtype=np.intp))


class Judged(Struct, frozen=True):
    """Log probabilities after the LLM has judged, and the places of the texts that it has judged."""

    belief: Scores
    places: Places


def _seeds(belief: Scores) -> list[list[int]]:
    """Return for each label some texts that are surely of it, not only the very surest, which are all alike."""
    made, chance = belief.argmax(axis=1), np.random.default_rng(SEED)
    sure = surest(belief, 0.5, 10)
    out = []
    for label in range(belief.shape[1]):
        own = sure[made[sure] == label]
        out.append([int(place) for place in chance.permutation(own)[:SEEDS]])
    return out


def calibrated(vectors: Matrix, belief: Scores) -> Scores:
    """Return the probability [texts] of the label that each text is given.

    A head that is fitted on the other folds' made labels says how predictable these are; the temperature at which it
    is as sure as it is right is applied to the belief. It tells agreement and not truth, which nobody here knows.
    """
    made = belief.argmax(axis=1)
    counts = np.bincount(made, minlength=belief.shape[1])
    kept = np.flatnonzero(counts[made] >= FOLDS)
    apart = np.full_like(belief, np.nan)
    if len(np.unique(made[kept])) >= FEWEST_LABELS:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
        for train, test in folds.split(kept, made[kept]):
            head = LogisticRegression(C=STRENGTH, max_iter=200).fit(vectors[kept[train]], made[kept[train]])
            apart[kept[test]] = log_probabilities(head, vectors[kept[test]], belief.shape[1])

        def loss(temperature: float) -> float:
            scaled = normalised(apart[kept] / temperature)
            return float(-scaled[np.arange(len(kept)), made[kept]].mean())

        scale = float(minimize_scalar(loss, bounds=(0.2, 10.0), method="bounded").x)
    else:
        scale = 1.0
    likely = np.exp(normalised(belief / max(1.0, scale)))
    found: Scores = likely[np.arange(len(made)), made]
    return found

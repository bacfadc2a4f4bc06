"""Shows that stacked heads say what each says alone, and both what the definitions say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, softmax

from reflexd.engine.in_domain import domain_of
from reflexd.engine.panel import Alone, LoadedHead, Panel, Scores, Stack
from reflexd.registry.artifacts import Domain, Head

WIDTH = 24


def encoder() -> Any:
    """Stand for an encoder: a stack only tells them apart and asks for their memory."""
    return SimpleNamespace(own_bytes=0)


class Made:
    """A head with all that it was made of."""

    def __init__(self, random: np.random.Generator, of: Any, number: int) -> None:
        labels, wide = int(random.integers(2, 9)), bool(number % 2)
        self.head = Head(
            random.normal(size=(labels, WIDTH * (1 + wide))).astype(np.float32) * 6,
            random.normal(size=labels).astype(np.float32),
        )
        self.multi = number % 3 == 0
        self.temperature = float(random.uniform(0.3, 2))
        self.thresholds = random.uniform(0.2, 0.9, labels).tolist() if self.multi else []
        self.domain: Domain | None = None
        if number % 4:
            means = random.normal(size=(int(random.integers(1, 5)), WIDTH)).astype(np.float32)
            means *= 0.8 / np.linalg.norm(means, axis=1, keepdims=True)
            self.domain = domain_of(means, random.uniform(0.4, 1.6, 50).astype(np.float32))
        mode: Any = "multi_label" if self.multi else "single_label"
        self.loaded = LoadedHead(of, self.head, mode, self.temperature, self.thresholds, self.domain)

    def check(self, features: np.ndarray[Any, Any], said: Scores) -> None:
        """Compare what was said with the definitions."""
        logits = self.head.weight.astype(np.float64) @ features[: self.head.weight.shape[1]] + self.head.bias
        exact = (expit if self.multi else softmax)(logits / self.temperature)
        assert said.probabilities == pytest.approx(exact, abs=1e-5)
        chosen = exact >= self.thresholds if self.multi else np.arange(len(exact)) == exact.argmax()
        assert said.selected == chosen.tolist()
        best = int(np.where(chosen, exact, -1).argmax()) if chosen.any() else -1
        assert said.best == [best]
        if self.domain is None:
            assert said.in_domain == [None]
        else:
            distance = np.linalg.norm(self.domain.means - features[:WIDTH], axis=1).min()
            last = len(self.domain.quantiles) - 1
            share = 1 - np.interp(distance, self.domain.quantiles, np.arange(last + 1)) / last
            assert said.in_domain == [pytest.approx(float(share), abs=2e-3)]


def features_of(random: np.random.Generator) -> np.ndarray[Any, Any]:
    both = random.normal(size=(2, WIDTH))
    return (both / np.linalg.norm(both, axis=1, keepdims=True)).ravel().astype(np.float32)


def parts(said: Scores, heads: list[Made]) -> list[Scores]:
    """Return each head's part of an answer."""
    out, start = [], 0
    for number, made in enumerate(heads):
        part = slice(start, start + len(made.head.bias))
        best = said.best[number] - start if said.best[number] >= 0 else -1
        out.append(
            Scores(
                said.probabilities[part], said.selected[part], [best], [said.in_domain[number]], [said.windows[number]]
            )
        )
        start = part.stop
    return out


def test_a_head_alone_says_what_the_definitions_say() -> None:
    random = np.random.default_rng(1)
    for number in range(24):
        made = Made(random, encoder(), number)
        for _ in range(20):
            features = features_of(random)
            made.check(features, Alone(made.loaded).score(features, 1))


@pytest.mark.parametrize("encoders", [1, 3])
def test_heads_of_all_kinds_stacked_say_the_same_in_the_order_asked(encoders: int) -> None:
    random = np.random.default_rng(encoders)
    shared = [encoder() for _ in range(encoders)]
    heads = [Made(random, shared[random.integers(encoders)], number) for number in range(40)]
    stack = Stack([made.loaded for made in heads])
    assert len(stack.panels) == 2 * encoders, "one of each encoder and width"
    for _ in range(10):
        features = {id(one): features_of(random) for one in shared}
        windows = {id(one): number + 1 for number, one in enumerate(shared)}
        said = stack.join([p.score(features[id(p.encoder)], windows[id(p.encoder)]) for p in stack.panels])
        for made, part in zip(heads, parts(said, heads), strict=True):
            of = id(made.loaded.encoder)
            made.check(features[of], part)
            assert part.windows == [windows[of]]


def test_of_equal_labels_the_first_is_selected() -> None:
    zero = Head(np.zeros((3, WIDTH), np.float32), np.zeros(3, np.float32))
    one = encoder()
    alone = LoadedHead(one, zero, "single_label", 1.0, [], None)
    features = features_of(np.random.default_rng(0))
    assert Alone(alone).score(features, 1).selected == [True, False, False]
    both = Panel([alone, alone]).score(features, 1)
    assert both.selected == [True, False, False] * 2
    assert both.best == [0, 3]


def test_extreme_logits_stay_numbers() -> None:
    far = Head(np.zeros((2, WIDTH), np.float32), np.array([-1e9, 1e9], np.float32))
    one, features = encoder(), features_of(np.random.default_rng(0))
    for mode, thresholds in (("single_label", []), ("multi_label", [0.5, 0.5])):
        made = LoadedHead(one, far, mode, 0.02, thresholds, None)  # type: ignore[arg-type]
        for said in (Alone(made).score(features, 1), Panel([made, made]).score(features, 1)):
            assert said.probabilities[:2] == pytest.approx([0, 1], abs=1e-12)
            assert said.selected[:2] == [False, True]


def test_large_heads_are_not_copied_together(monkeypatch: pytest.MonkeyPatch) -> None:
    random, one = np.random.default_rng(2), encoder()
    heads = [Made(random, one, number) for number in range(8)]
    small = Stack([made.loaded for made in heads])
    monkeypatch.setattr("reflexd.engine.panel.STACKED_BYTES", 100)
    large = Stack([made.loaded for made in heads])
    assert (len(small.panels), len(large.panels)) == (2, 8)
    features = features_of(random)
    both = [stack.join([panel.score(features, 1) for panel in stack.panels]) for stack in (small, large)]
    assert both[0].probabilities == pytest.approx(both[1].probabilities, abs=1e-6)
    assert (both[0].best, both[0].selected) == (both[1].best, both[1].selected)

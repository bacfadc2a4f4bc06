"""Shows which texts `label_data` leaves out: those about none of the labels, however many they are, and no others."""

from __future__ import annotations

import random

import numpy as np
import pytest

from reflexd.engine.encoder import Encoder
from reflexd_plugins.label_words import described
from reflexd_plugins.proposals import Matrix, anchors, outside
from tests.rows import ROOT, read_gzip

SETS = ROOT.parent / "shared" / "data" / "benchmarks"
LINES = {
    "restaurant_reservation": "booking a table at a restaurant",
    "card_declined": "asking why my card was declined or did not work at a store",
    "calories": "asking how many calories a food has",
}


def embed(encoder: Encoder, texts: list[str]) -> Matrix:
    return encoder.embed_all(texts, 2)[0][:, : encoder.description.width]


@pytest.mark.parametrize("strangers", [0, 90, 900])
def test_what_is_about_no_label_is_left_out_however_much_it_is(encoder: Encoder, strangers: int) -> None:
    if not (SETS / "clinc150").exists():
        pytest.skip("the benchmark clinc150 is not here")
    rows = read_gzip(SETS / "clinc150" / "train.jsonl.gz")
    random.Random(1).shuffle(rows)
    own = [row["text"] for row in rows if row["label"] in LINES]
    others = [row["text"] for row in rows if row["label"] not in LINES][:strangers]
    words = anchors(lambda texts: embed(encoder, list(texts)), described(list(LINES), None, LINES))
    left_out = outside(embed(encoder, own + others), words)
    assert np.mean(left_out[: len(own)]) <= 0.06
    assert not others or np.mean(left_out[len(own) :]) >= 0.6


def test_nothing_is_left_out_where_words_do_not_say_what_a_text_is(encoder: Encoder) -> None:
    """Of film reviews, that one is good or bad says little of what it says."""
    if not (SETS / "sst2").exists():
        pytest.skip("the benchmark sst2 is not here")
    texts = [row["text"] for row in read_gzip(SETS / "sst2" / "test.jsonl.gz")][:300]
    lines = {"negative": "a negative film review", "positive": "a positive film review"}
    words = anchors(lambda texts: embed(encoder, list(texts)), described(list(lines), None, lines))
    assert not outside(embed(encoder, texts), words).any()

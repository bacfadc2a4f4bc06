"""Shows that `generate` and `label_data` are checked to their bounds, and then refused for want of a local LLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.daemons import Daemon
from tests.integration.refusals import check_error
from tests.rows import TICKETS

LABELS = ["billing", "bug"]
TEXTS = [f"text {n}" for n in range(10)]
GOOD: dict[str, dict[str, Any]] = {
    "generate": {"generate": {"description": "sorts tickets"}},
    "the fewest examples": {"generate": {"description": "x", "examples_per_label": 5}},
    "the most examples": {"generate": {"description": "x", "examples_per_label": 1_000}},
    "lines and seeds": {
        "generate": {
            "description": "x",
            "label_descriptions": {"bug": "what does not work"},
            "seed_examples": [{"text": "the app freezes", "label": "bug"}],
        }
    },
    "label_data": {"label_data": {"texts": TEXTS}},
    "the most texts": {"label_data": {"texts": TEXTS * 2_000, "description": "tickets"}},
}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no description": ({"generate": {}}, "generate.description"),
    "an empty description": ({"generate": {"description": ""}}, "generate.description"),
    "a blank description": ({"generate": {"description": "  "}}, "generate.description"),
    "a description that is a number": ({"generate": {"description": 5}}, "generate.description"),
    "too few examples": ({"generate": {"description": "x", "examples_per_label": 4}}, "generate.examples_per_label"),
    "too many examples": (
        {"generate": {"description": "x", "examples_per_label": 1_001}},
        "generate.examples_per_label",
    ),
    "half an example": ({"generate": {"description": "x", "examples_per_label": 7.5}}, "generate.examples_per_label"),
    "a description alone": ({"generate": "sorts tickets"}, "generate"),
    "no texts": ({"label_data": {}}, "label_data.texts"),
    "nine texts": ({"label_data": {"texts": TEXTS[:9]}}, "label_data.texts"),
    "20,001 texts": ({"label_data": {"texts": ["x"] * 20_001}}, "label_data.texts"),
    "an empty text": ({"label_data": {"texts": [*TEXTS, " "]}}, "label_data.texts[10]"),
    "a text that is a row": ({"label_data": {"texts": [*TEXTS, {"text": "a"}]}}, "label_data.texts[10]"),
    "a line about no label": (
        {"generate": {"description": "x", "label_descriptions": {"other": "y"}}},
        "generate.label_descriptions['other']",
    ),
    "an empty line about a label": (
        {"label_data": {"texts": TEXTS, "label_descriptions": {"bug": " "}}},
        "label_data.label_descriptions['bug']",
    ),
    "a seed of another label": (
        {"generate": {"description": "x", "seed_examples": [{"text": "a", "label": "other"}]}},
        "generate.seed_examples[0].label",
    ),
    "a seed without a text": (
        {"generate": {"description": "x", "seed_examples": [{"text": "a", "label": "bug"}, {"label": "bug"}]}},
        "generate.seed_examples[1].text",
    ),
    "no labels": ({"generate": {"description": "x"}, "labels": []}, "labels"),
    "one label": ({"label_data": {"texts": TEXTS}, "labels": ["one"]}, "labels"),
    "rows too": ({"generate": {"description": "x"}, "training_data": TICKETS}, "training_data"),
    "both": ({"label_data": {"texts": TEXTS}, "generate": {"description": "x"}}, "generate"),
}


@pytest.fixture
def http(daemon: Daemon, key: str) -> Iterator[httpx2.Client]:
    with daemon.http(key) as client:
        yield client


@pytest.mark.parametrize("name", GOOD)
def test_a_good_one_needs_a_local_llm(http: httpx2.Client, daemon: Daemon, name: str) -> None:
    (field,) = GOOD[name]
    answer = http.post("/v1/fine_tuning/jobs", json={"labels": LABELS, **GOOD[name]})
    check_error(daemon, answer, 400, "llm_not_configured", field)
    assert http.get("/v1/fine_tuning/jobs").json()["data"] == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_names_the_field_first(http: httpx2.Client, daemon: Daemon, name: str) -> None:
    given, param = BAD[name]
    answer = http.post("/v1/fine_tuning/jobs", json={"labels": LABELS, **given})
    check_error(daemon, answer, 400, None, param)

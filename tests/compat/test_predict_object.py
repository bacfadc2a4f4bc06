"""Shows that one predict answer serves clients of every generation, and that one request may ask several models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests import jobs
from tests.daemons import Daemon
from tests.rows import TICKETS, made_up

TEXT = "the total on my bill is too high"


@pytest.fixture(scope="module")
def trained(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """A tenant with the models `tickets` (billing, bug) and `animals` (dog, cat)."""
    with daemon.openai(daemon.create_key("predict-object")) as client:
        jobs.train(client, TICKETS, "tickets")
        jobs.train(client, made_up(40), "animals", labels=["dog", "cat"])
        yield client


def ask(client: openai.OpenAI, **body: Any) -> dict[str, Any]:
    return client.post("/reflex/predict", body=body, cast_to=dict[str, Any])


def test_the_answer_has_the_keys_of_all_generations(trained: openai.OpenAI) -> None:
    answer = ask(trained, model="tickets", text=TEXT)
    assert set(answer) == {
        "model",
        "version",
        "label",
        "confidence",
        "mode",
        "classes",
        "all_scores",
        "scores",
        "labels",
        "in_domain",
        "inference_time_ms",
    }
    assert (answer["model"], answer["version"], answer["mode"]) == ("tickets", 1, "single_label")
    assert answer["labels"] == ["billing", "bug"]
    assert sum(answer["all_scores"]) == pytest.approx(1, abs=1e-6)
    assert answer["scores"] == dict(zip(answer["labels"], answer["all_scores"], strict=True))
    assert [c["label"] for c in answer["classes"]] == answer["labels"]
    assert [c["score"] for c in answer["classes"]] == answer["all_scores"]
    assert [c["label"] for c in answer["classes"] if c["selected"]] == [answer["label"]] == ["billing"]
    assert answer["confidence"] == max(answer["all_scores"]) == answer["scores"]["billing"]
    assert answer["inference_time_ms"] > 0


def test_a_text_that_is_none_of_the_labels_can_be_told(trained: openai.OpenAI) -> None:
    """`in_domain` is the share of the model's own rows that lie at least as far from its labels."""
    usual = ask(trained, model="tickets", text=TICKETS[0]["text"])["in_domain"]
    strange = ask(trained, model="tickets", text="Photosynthesis takes place in chloroplasts")["in_domain"]
    assert usual > 0.5 > strange >= 0
    assert ask(trained, model="tickets", text=TEXT, fields=["in_domain"]).keys() == {"in_domain"}


def test_scores_follow_the_labels_of_the_job_not_of_its_rows(trained: openai.OpenAI) -> None:
    answer = ask(trained, model="animals", text="row 5 has a dog word0 word1 word2")
    assert answer["labels"] == ["dog", "cat"]
    assert answer["label"] == "dog"
    assert answer["all_scores"][0] == answer["confidence"]


def test_several_models_answer_in_the_order_asked_and_as_they_do_alone(trained: openai.OpenAI) -> None:
    names = ["animals", "tickets", "animals"]
    together = ask(trained, models=names, text=TEXT)
    assert set(together) == {"object", "predictions", "inference_time_ms"}
    assert together["object"] == "reflex.predictions"
    assert [answer["model"] for answer in together["predictions"]] == names
    for name, answer in zip(names, together["predictions"], strict=True):
        alone = ask(trained, model=name, text=TEXT)
        assert answer["all_scores"] == pytest.approx(alone["all_scores"], abs=1e-6)
        assert (answer["label"], answer["labels"]) == (alone["label"], alone["labels"])


@pytest.mark.parametrize(
    "body", [{"text": TEXT}, {"text": TEXT, "model": "tickets", "models": ["tickets"]}], ids=["neither", "both"]
)
def test_model_and_models_exclude_each_other(trained: openai.OpenAI, body: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(trained, **body)
    assert (refused.value.param, refused.value.type) == ("model", "invalid_request_error")


def test_one_unknown_name_among_several_is_a_404(trained: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        ask(trained, models=["tickets", "nobody-trained-this"], text=TEXT)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_a_text_is_never_cut_silently(trained: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(trained, model="tickets", text="word " * 5_000)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "text")

"""Shows all that a predict request may ask: several texts, chosen fields, long texts, multi-label, batches of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests import jobs
from tests.daemons import Daemon
from tests.integration.refusals import check_error
from tests.rows import BILLING, BUG, TICKETS, endless, made_up

PREDICT = "/v1/reflex/predict"
BATCH = "/v1/reflex/synchronous_predict_batch"
BILL, CRASH = "the total on my bill is too high", "the app freezes"
BOTH = "the total on my bill is too high and the app freezes"
TOPICS = [
    *({"text": text, "labels": ["billing"]} for text in BILLING),
    *({"text": text, "labels": ["bug"]} for text in BUG),
    *({"text": f"{one}. {other}", "labels": ["billing", "bug"]} for one, other in zip(BILLING, BUG, strict=True)),
    *({"text": text, "labels": []} for text in ("Hello there", "Thanks a lot", "See you soon", "Good morning", "Bye")),
]


@pytest.fixture(scope="module")
def tenant(daemon: Daemon) -> Iterator[str]:
    """A key of a tenant with the models tickets, animals and topics, the last one multi-label, and the job `busy`."""
    key = daemon.create_key("predict-contract")
    with daemon.openai(key) as client:
        jobs.train(client, TICKETS, "tickets")
        jobs.train(client, made_up(40), "animals", labels=["dog", "cat"])
        jobs.train(client, TOPICS, "topics")
        busy = jobs.create(client, endless(), "busy")
        yield key
        jobs.delete(client, busy.id)


@pytest.fixture
def http(daemon: Daemon, tenant: str) -> Iterator[httpx2.Client]:
    with daemon.http(tenant) as client:
        yield client


def ask(http: httpx2.Client, path: str = PREDICT, **body: Any) -> dict[str, Any]:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_several_texts_are_answered_text_by_text_and_model_by_model(http: httpx2.Client) -> None:
    texts, models = [BILL, CRASH, BILL], ["animals", "tickets"]
    answer = ask(http, texts=texts, models=models)
    assert answer["object"] == "reflex.predictions"
    found = answer["predictions"]
    assert [(one["index"], one["model"]) for one in found] == [(i, m) for i in range(3) for m in models]
    for one in found:
        alone = ask(http, text=texts[one["index"]], model=one["model"])
        assert one["all_scores"] == pytest.approx(alone["all_scores"], abs=1e-4)
        assert "index" not in alone
    single = ask(http, texts=[CRASH], model="tickets")["predictions"]
    assert [(one["index"], one["label"]) for one in single] == [(0, "bug")]


def test_fields_choose_what_comes_back(http: httpx2.Client) -> None:
    whole = ask(http, text=CRASH, model="tickets")
    assert ask(http, text=CRASH, model="tickets", fields=["label"]) == {"label": "bug"}
    some = ask(http, text=CRASH, model="tickets", fields=["scores", "mode", "confidence"])
    assert some == {name: whole[name] for name in ("confidence", "mode", "scores")}
    answer = ask(http, texts=[CRASH], models=["tickets"], fields=["index", "label"])
    assert answer["predictions"] == [{"index": 0, "label": "bug"}]
    assert ask(http, text=CRASH, model="tickets", fields=None).keys() == whole.keys()


def test_a_long_text_is_refused_or_read_in_windows(http: httpx2.Client, daemon: Daemon) -> None:
    long = " ".join([CRASH] * 400)
    refused = http.post(PREDICT, json={"text": long, "model": "tickets"})
    check_error(daemon, refused, 400, "context_length_exceeded", "text")
    refused = http.post(PREDICT, json={"texts": [CRASH, long], "model": "tickets"})
    check_error(daemon, refused, 400, "context_length_exceeded", "texts[1]")
    answer = ask(http, text=long, model="tickets", long_text="chunk")
    assert answer["label"] == "bug"
    assert answer["windows"] > 1
    short = ask(http, text=CRASH, model="tickets", long_text="chunk")
    assert short["windows"] == 1
    assert short["all_scores"] == ask(http, text=CRASH, model="tickets")["all_scores"]
    hidden = " ".join(["ok"] * 3_000 + [CRASH] * 400)
    assert ask(http, text=hidden, model="tickets", long_text="chunk")["windows"] > answer["windows"]
    endless_text = http.post(PREDICT, json={"text": "a b " * 50_000, "model": "tickets", "long_text": "chunk"})
    assert "65536" in check_error(daemon, endless_text, 400, "context_length_exceeded", "text").replace(",", "")


def test_a_multi_label_model_selects_any_number(http: httpx2.Client, daemon: Daemon, tenant: str) -> None:
    job = daemon.openai(tenant).models.retrieve("topics")
    assert job.model_extra["mode"] == "multi_label"
    assert set(job.model_extra["labels"]) == {"billing", "bug"}
    chosen = {}
    for text in (BILL, CRASH, BOTH, "Good evening to you"):
        answer = ask(http, text=text, model="topics")
        assert answer["mode"] == "multi_label"
        assert all(0 <= score <= 1 for score in answer["all_scores"])
        chosen[text] = {c["label"] for c in answer["classes"] if c["selected"]}
        if chosen[text]:
            assert answer["label"] in chosen[text]
            assert answer["confidence"] == max(answer["scores"][label] for label in chosen[text])
        else:
            assert (answer["label"], answer["confidence"]) == (None, None)
    assert "bug" in chosen[CRASH]
    assert "billing" in chosen[BILL]
    assert chosen["Good evening to you"] == set()
    assert sum(ask(http, text=BOTH, model="topics")["all_scores"]) > 1, "independent sigmoids"


def test_a_job_is_multi_label_by_its_rows_or_by_its_mode(daemon: Daemon, key: str, client: openai.OpenAI) -> None:
    done = jobs.train(client, TOPICS, "by-rows")
    assert (done.model_extra["mode"], done.model_extra["labels"]) == ("multi_label", ["billing", "bug"])
    assert done.model_extra["trained_examples"] == len(TOPICS)
    assert set(done.model_extra["result"]) >= {"accuracy", "f1_score", "micro_f1", "n"}
    asked = jobs.train(client, TICKETS, "by-mode", mode="multi_label")
    assert asked.model_extra["mode"] == "multi_label"
    assert jobs.predict(client, "by-mode", CRASH)["mode"] == "multi_label"
    with daemon.http(key) as http:

        def refused(rows: list[Any], param: str, **more: Any) -> str:
            answer = http.post("/v1/fine_tuning/jobs", json={"training_data": rows, **more})
            return check_error(daemon, answer, 400, None, param)

        refused(TOPICS, "training_data[0].labels", mode="single_label")
        refused([{"text": "a", "label": "x", "labels": ["x"]}, *TOPICS], "training_data[0].label")
        refused([{"text": "a"}, *TOPICS], "training_data[0].label")
        refused([{"text": "a", "labels": ["bug", "bug"]}, *TOPICS], "training_data[0].labels[1]")
        refused([{"text": "a", "labels": ["other"]}, *TOPICS], "training_data[0].labels[0]", labels=["billing", "bug"])
        refused([{"text": "a", "labels": [5]}, *TOPICS], "training_data[0].labels[0]")
        assert "'rare' has 1" in refused([{"text": "a", "labels": ["rare"]}, *TOPICS], "training_data")
        refused(TOPICS, "mode", mode="multi")


def test_a_batch_answers_each_row_in_order_under_its_id(http: httpx2.Client) -> None:
    rows = [
        {"id": "a", "model": "tickets", "text": CRASH},
        {"id": "empty", "model": "tickets", "text": " "},
        {"id": "b", "model": ["tickets", "animals"], "text": BILL},
        {"id": "long", "model": "tickets", "text": "word " * 5_000},
        {"id": "untyped", "model": "tickets", "text": 5},
        {"id": "textless", "model": "tickets"},
        {"id": "none", "model": [], "text": BILL},
        {"id": "nothing", "model": "tickets", "text": "\u200b\u200b"},
        {"id": "a", "model": "topics", "text": BILL},
    ]
    answer = ask(http, BATCH, requests=rows)
    results = answer["results"]
    assert [one["id"] for one in results] == [row["id"] for row in rows]
    assert answer["inference_time_ms"] > 0
    by_place = {number: one["error"] for number, one in enumerate(results) if "error" in one}
    assert {n: (error["param"], error["code"]) for n, error in by_place.items()} == {
        1: ("text", None),
        3: ("text", "context_length_exceeded"),
        4: ("text", None),
        5: ("text", None),
        6: ("model", None),
        7: ("text", None),
    }
    for error in by_place.values():
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
    for number, models in ((0, ["tickets"]), (2, ["tickets", "animals"]), (8, ["topics"])):
        assert "error" not in results[number]
        assert [one["model"] for one in results[number]["predictions"]] == models
        for one in results[number]["predictions"]:
            alone = ask(http, text=rows[number]["text"], model=one["model"])
            assert one["all_scores"] == pytest.approx(alone["all_scores"], abs=1e-4)
            assert one["label"] == alone["label"]


def test_a_batch_of_a_thousand_rows(http: httpx2.Client, daemon: Daemon) -> None:
    rows = [{"id": str(n), "model": "tickets", "text": (BILL, CRASH)[n % 2]} for n in range(1_000)]
    results = ask(http, BATCH, requests=rows, fields=["label"])["results"]
    assert [one["predictions"] for one in results] == [[{"label": ("billing", "bug")[n % 2]}] for n in range(1_000)]
    refused = http.post(BATCH, json={"requests": [*rows, rows[0]]})
    check_error(daemon, refused, 400, None, "requests")
    long = ask(http, BATCH, requests=[{"id": "l", "model": "tickets", "text": "word " * 5_000}], long_text="chunk")
    assert long["results"][0]["predictions"][0]["windows"] > 1


def test_a_model_that_is_unknown_or_not_ready_refuses_the_whole_batch(http: httpx2.Client, daemon: Daemon) -> None:
    good = {"id": "good", "model": "tickets", "text": CRASH}
    for name, status, code in (("nobody", 404, "model_not_found"), ("busy", 409, "model_not_ready")):
        for model in (name, ["tickets", name]):
            for text in (BILL, "", 5):  # what is wrong with a text does not hide it
                answer = http.post(BATCH, json={"requests": [good, {"id": "x", "model": model, "text": text}]})
                check_error(daemon, answer, status, code, "requests[1].model")


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "neither text nor texts": (PREDICT, {"model": "tickets"}, "text"),
    "both text and texts": (PREDICT, {"model": "tickets", "text": "a", "texts": ["a"]}, "text"),
    "neither model nor models": (PREDICT, {"text": "a"}, "model"),
    "no texts": (PREDICT, {"model": "tickets", "texts": []}, "texts"),
    "no models": (PREDICT, {"models": [], "text": "a"}, "models"),
    "too many texts": (PREDICT, {"model": "tickets", "texts": ["a"] * 1_001}, "texts"),
    "an empty text": (PREDICT, {"model": "tickets", "texts": ["a", ""]}, "texts[1]"),
    "a text that is a number": (PREDICT, {"model": "tickets", "texts": ["a", 5]}, "texts[1]"),
    "a text of nothing": (PREDICT, {"model": "tickets", "texts": ["a", "\u200b"]}, "texts[1]"),
    "an unknown field": (PREDICT, {"model": "tickets", "text": "a", "fields": ["label", "size"]}, "fields[1]"),
    "no fields": (PREDICT, {"model": "tickets", "text": "a", "fields": []}, "fields"),
    "another way with long texts": (PREDICT, {"model": "tickets", "text": "a", "long_text": "cut"}, "long_text"),
    "no requests": (BATCH, {"requests": []}, "requests"),
    "requests missing": (BATCH, {}, "requests"),
    "a row without id": (BATCH, {"requests": [{"model": "tickets", "text": "a"}]}, "requests[0].id"),
    "a row's id is a number": (BATCH, {"requests": [{"id": 5, "model": "tickets", "text": "a"}]}, "requests[0].id"),
    "a row is no object": (BATCH, {"requests": ["a"]}, "requests[0]"),
    "an unknown field of a batch": (BATCH, {"requests": [{"id": "a"}], "fields": ["x"]}, "fields[0]"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_names_the_field(http: httpx2.Client, daemon: Daemon, name: str) -> None:
    path, given, param = BAD[name]
    check_error(daemon, http.post(path, json=given), 400, None, param)


def test_an_answer_is_bounded(start_daemon: Any) -> None:
    daemon = start_daemon(REFLEXD_LIMITS__ANSWER_VALUES="80", REFLEXD_LIMITS__MODELS="6")
    with daemon.openai() as client, daemon.http() as http:
        jobs.train(client, TICKETS, "tickets")
        assert len(ask(http, texts=[BILL] * 5, model="tickets")["predictions"]) == 5
        answer = http.post(PREDICT, json={"texts": [BILL] * 3, "models": ["tickets"] * 2})
        assert "96 values" in check_error(daemon, answer, 400, None, None)
        assert len(ask(http, texts=[BILL] * 3, models=["tickets"] * 2, fields=["label"])["predictions"]) == 6
        answer = http.post(PREDICT, json={"text": BILL, "models": ["tickets"] * 7})
        check_error(daemon, answer, 400, None, "models")

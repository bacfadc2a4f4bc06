"""Shows `generate` and `label_data` over the SDK on SmolLM2's real weights, by transformers, and what survives kills.

RFX_SYNTHESIS_KILLS says how often daemon, language model and both are killed while rows are made; by default once each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests import jobs
from tests.checkpoints import smollm2_for_an_llm
from tests.daemons import Daemon, running
from tests.integration import synthesis_kills
from tests.integration.refusals import check_error
from tests.integration.synthesis_kills import KILLS
from tests.integration.test_holding import rests
from tests.rows import ROOT, Row, read_gzip

CREATE = "/v1/fine_tuning/jobs"
MODULE = "reflexd.engine.llm.embedded"
LINES = {
    "restaurant_reservation": "booking a table at a restaurant",
    "card_declined": "asking why my card was declined or did not work at a store",
    "calories": "asking how many calories a food has",
}
LABELS = list(LINES)
CLINC = ROOT.parent / "shared" / "data" / "benchmarks" / "clinc150"


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with SmolLM2 imported."""
    checkpoint = smollm2_for_an_llm(tmp_path_factory.mktemp("llm") / "smol")
    with running(REFLEXD_LLM__THREADS="1", REFLEXD_LLM__IDLE_SECONDS="120") as daemon:
        said = daemon.cli("llm", "import", checkpoint, "--name", "smol", seconds=300)
        assert said.startswith("imported smol (135M parameters")
        yield daemon


def rows_of(part: str) -> list[Row]:
    path = CLINC / f"{part}.jsonl.gz"
    if not path.exists():
        pytest.skip("the benchmark clinc150 is not here")
    return [row for row in read_gzip(path) if row["label"] in LINES]


def label(client: openai.OpenAI, texts: list[str], suffix: str, **more: Any) -> Any:
    body = {"labels": LABELS, "label_data": {"texts": texts, "label_descriptions": LINES}, "suffix": suffix, **more}
    return client.fine_tuning.jobs.create(model="morph-reflex-v1", training_file="", extra_body=body)


def made_rows(client: openai.OpenAI, http: httpx2.Client, job_id: str) -> list[dict[str, Any]]:
    (file_id,) = http.get(f"{CREATE}/{job_id}").json()["result_files"]
    file = client.files.retrieve(file_id)
    assert (file.purpose, file.filename) == ("fine-tune-results", f"{job_id}_rows.jsonl")
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


@pytest.mark.timeout(500)
def test_unlabelled_texts_become_a_classifier(writer: Daemon) -> None:
    rows = random.Random(1).sample(rows_of("train"), 90)
    truth = {row["text"]: row["label"] for row in rows}
    with writer.openai() as client, writer.http() as http:
        job = jobs.wait_for_status(client, label(client, list(truth), "sorted").id, "succeeded")
        made = made_rows(client, http, job.id)
        said = jobs.messages(client, job.id)
        held = client.fine_tuning.jobs.retrieve(job.id).model_extra["result"]
        test = rows_of("test")
        right = [jobs.predict(client, "sorted", row["text"])["label"] == row["label"] for row in test]
    assert len(made) >= 0.9 * len(truth)
    assert sum(truth[row["text"]] == row["label"] for row in made) >= 0.95 * len(made)
    assert {row["decided_by"] for row in made} == {"encoder", "encoder and llm"}
    assert all(1 / 3 <= row["probability"] <= 1 for row in made)
    assert sum(right) >= 0.9 * len(right)
    assert "Waiting for the local LLM" in said
    assert any(message.startswith("The LLM judged 18 texts") for message in said)
    assert held["scored_against"] == "made_labels"
    assert "own_rows" not in held
    assert any("not how often it is right" in message for message in said)


@pytest.mark.timeout(500)
def test_rows_are_written_reviewed_and_trained_on(writer: Daemon) -> None:
    seeds = [{"text": "can i book a table for two tonight", "label": "restaurant_reservation"}]
    description = "what people write to an assistant\n" + "\n".join(f"- {name}: {line}" for name, line in LINES.items())
    given = {"description": description, "examples_per_label": 5, "seed_examples": seeds}
    body = {"labels": LABELS, "generate": given, "suffix": "written", "auto_train": False}
    with writer.openai() as client, writer.http() as http:
        job = client.fine_tuning.jobs.create(model="morph-reflex-v1", training_file="", extra_body=body)
        rests(http, job.id)
        made = made_rows(client, http, job.id)
        path = f"{CREATE}/{job.id}/rows"
        shown = http.get(path)
        assert shown.headers["content-type"].startswith("application/jsonl")
        assert [json.loads(line) for line in shown.text.splitlines()] == made
        assert made[0] == {**seeds[0], "probability": 1.0, "decided_by": "user"}
        assert {name: sum(row["label"] == name for row in made) for name in LABELS} == dict.fromkeys(LABELS, 5)
        assert len({row["text"] for row in made}) == 15

        for content, param in (
            (shown.text + '{"text": "", "label": "calories"}', "rows[15].text"),
            (shown.text + '\n{"text": "x", "label": "another"}', "rows[15].label"),
            ('{"text": "x", "label": 5}', "rows[0].label"),
            ("nonsense", "rows[0]"),
            ("", "rows"),
        ):
            check_error(writer, http.put(path, content=content), 400, None, param)
        assert http.get(path).text == shown.text, "what is refused changes nothing"
        edited = shown.text + '{"text": "how many calories has an egg", "label": "calories", "decided_by": "user"}\n'
        assert http.put(path, content=edited).json()["trained_examples"] == 16
        client.fine_tuning.jobs.resume(job.id)
        done = jobs.wait_for_status(client, job.id, "succeeded")
        assert done.model_extra["trained_examples"] == 16
        held = done.model_extra["result"]
        assert (held["n"], held["own_rows"]["n"]) == (16, 2), "the two rows that were given are scored by themselves"
        assert any("of 2 rows that you labelled" in message for message in jobs.messages(client, job.id))
        check_error(writer, http.put(path, content=edited), 400, "job_not_prepared", None)
        assert jobs.predict(client, "written", "how many calories are in a banana")["label"] == "calories"
        assert http.get(f"{CREATE}/{job.id}/rows").text.count("\n") == 16
    with writer.http(writer.create_key("rows-stranger")) as foreign:
        check_error(writer, foreign.get(path), 404, "job_not_found", None)
        check_error(writer, foreign.put(path, content=edited), 404, "job_not_found", None)


@pytest.mark.timeout(240 + 60 * KILLS)
def test_kills_lose_no_judgement_and_leave_no_orphan(writer: Daemon) -> None:
    numbers = range(KILLS)[: (KILLS + 1) // 2]
    texts = [row["text"] for row in random.Random(2).sample(rows_of("train"), 40 + 30 * len(numbers))]
    with writer.openai() as client:
        job = label(client, texts, "killed", auto_train=False)
    synthesis_kills.kill(writer, job.id, [MODULE], numbers)
    with writer.openai() as client, writer.http() as http:
        rests(http, job.id)
        made = made_rows(client, http, job.id)
    synthesis_kills.check_answers(writer, job.id)
    assert [row["text"] for row in made] == [text for text in dict.fromkeys(texts) if text in {r["text"] for r in made}]


@pytest.mark.timeout(240 + 60 * KILLS)
def test_kills_lose_no_text_that_was_written(writer: Daemon) -> None:
    numbers = range(KILLS)[(KILLS + 1) // 2 :]
    wanted = 5 + 2 * len(numbers)
    given = {"description": "what people say", "label_descriptions": LINES, "examples_per_label": wanted}
    body = {"labels": LABELS, "generate": given, "suffix": "rewritten", "auto_train": False}
    with writer.openai() as client, writer.http() as http:
        job = client.fine_tuning.jobs.create(model="morph-reflex-v1", training_file="", extra_body=body)
        synthesis_kills.kill(writer, job.id, [MODULE], numbers)
        rests(http, job.id)
        made = made_rows(client, http, job.id)
    synthesis_kills.check_answers(writer, job.id)
    assert {name: sum(row["label"] == name for row in made) for name in LABELS} == dict.fromkeys(LABELS, wanted)


def test_another_job_is_not_kept_waiting_by_one_that_needs_the_llm(writer: Daemon) -> None:
    texts = [row["text"] for row in random.Random(4).sample(rows_of("train"), 200)]
    with writer.openai() as client:
        slow = [label(client, texts, auto_train=False, suffix=name) for name in ("one", "two")]
        jobs.train(client, [{"text": f"a {name} {n}", "label": name} for name in ("cat", "dog") for n in range(6)])
        statuses = [client.fine_tuning.jobs.retrieve(job.id).status for job in slow]
        for job in slow:
            client.fine_tuning.jobs.cancel(job.id)
    assert statuses == ["running", "queued"]


def test_what_is_to_be_done_is_said_where_there_is_no_llm(daemon: Daemon, key: str) -> None:
    with daemon.http(key) as http:
        body = {"labels": ["a", "b"], "generate": {"description": "x"}}
        message = check_error(daemon, http.post(CREATE, json=body), 400, "llm_not_configured", "generate")
    assert "`reflexd llm import`" in message


@pytest.mark.timeout(500)
def test_the_same_llm_answers_chat(writer: Daemon) -> None:
    with writer.openai() as client:
        said = client.chat.completions.create(
            model="smol", messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0
        )
    assert (said.model, said.choices[0].finish_reason) == ("smol", "stop")
    assert "Paris" in (said.choices[0].message.content or "")

"""Shows that jobs are trained from uploaded files, and scored on others, by the files' content as it was then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2
import pytest

from reflexd.config import Limits
from tests.daemons import Daemon, wait_for
from tests.integration.refusals import nothing_written
from tests.rows import TICKETS, made_up

CREATE = "/v1/fine_tuning/jobs"
JUDGE = [
    {"text": "The screen stays black", "label": "bug"},
    {"text": "It stops when I type", "label": "bug"},
    {"text": "I was billed twice", "label": "billing"},
    {"text": "Give me my money back", "label": "billing"},
    {"text": "Where can I see what I pay", "label": "bug"},  # wrong on purpose: not all can come out right
]


def lines(rows: Sequence[object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(http: httpx2.Client, content: bytes, purpose: str = "fine-tune") -> str:
    answer = http.post("/v1/files", data={"purpose": purpose}, files={"file": ("rows.jsonl", content)})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def create(http: httpx2.Client, **body: Any) -> dict[str, Any]:
    answer = http.post(CREATE, json=body)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def succeeded(http: httpx2.Client, job_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = http.get(f"{CREATE}/{job_id}").json()
        assert job["status"] in ("queued", "running", "succeeded"), job["error"]
        return job if job["status"] == "succeeded" else None

    return wait_for(look, f"{job_id} has succeeded")


@pytest.fixture
def http(daemon: Daemon, key: str) -> Iterator[httpx2.Client]:
    """A plain client in a tenant of its own; what it has made is deleted afterwards."""
    with daemon.http(key) as client:
        yield client
        for path in (CREATE, "/v1/files"):
            for made in client.get(path, params={"limit": 100}).json()["data"]:
                client.delete(f"{path}/{made['id']}").raise_for_status()


def refused(http: httpx2.Client, code: str | None, param: str, **body: Any) -> str:
    answer = http.post(CREATE, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param), error
    return str(error["message"])


# --- training_file --------------------------------------------------------------------------------------------------


def chat(row: dict[str, str]) -> object:
    turns = [("system", "Sort the ticket."), ("user", row["text"]), ("assistant", row["label"])]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize("form", ["label", "labels", "chat", "mixed"])
def test_each_form_of_lines_trains(http: httpx2.Client, form: str) -> None:
    several = [{"text": row["text"], "labels": [row["label"]]} for row in TICKETS]
    content = {
        "label": lines(TICKETS),
        "labels": lines([*several, {"text": "Hello", "labels": []}]),
        "chat": lines([chat(row) for row in TICKETS]),
        "mixed": b"\xef\xbb\xbf" + lines([*TICKETS[:5], *map(chat, TICKETS[5:])]).replace(b"\n", b"\r\n\r\n"),
    }[form]
    file_id = upload(http, content)
    made = create(http, training_file=file_id, suffix=form)
    mode, count = ("multi_label", 11) if form == "labels" else ("single_label", 10)
    assert (made["labels"], made["mode"], made["trained_examples"]) == (["billing", "bug"], mode, count)
    assert (made["training_file"], made["validation_file"]) == (file_id, None)
    done = succeeded(http, made["id"])
    inline = [*several, {"text": "Hello", "labels": []}] if form == "labels" else TICKETS
    same = succeeded(http, create(http, training_data=inline, seed=done["seed"])["id"])
    assert {**done["result"], "warnings": 0} == {**same["result"], "warnings": 0}, "rows are rows"
    assert same["training_file"] == "file-inline-" + same["id"]


ROWS = [json.dumps(row) for row in TICKETS]
BAD_LINES: dict[str, tuple[str, str]] = {
    "no JSON": ("text,label", "not valid JSON"),
    "NaN": ('{"text": "x", "label": NaN}', "not valid JSON"),
    "a lone surrogate": (r'{"text": "\ud800", "label": "bug"}', "not valid JSON"),
    "a list": ("[]", "JSON object"),
    "no text": ('{"label": "bug"}', "`text`"),
    "a number": ('{"text": 3, "label": "bug"}', "(in text)"),
    "no user": ('{"messages": [{"role": "assistant", "content": "bug"}]}', "user message"),
    "no assistant": ('{"messages": [{"role": "user", "content": "x"}]}', "assistant message"),
    "no label": ('{"text": "x"}', "needs label or labels"),
    "both": ('{"text": "x", "label": "bug", "labels": ["bug"]}', "both label and labels"),
    "an empty text": ('{"text": "", "label": "bug"}', "The text is empty"),
    "a blank text": ('{"text": " \\n", "label": "bug"}', "The text is empty"),
    "an empty turn": (
        '{"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "bug"}]}',
        "The text is empty",
    ),
    "NUL": (r'{"text": "a\u0000b", "label": "bug"}', "NUL"),
    "an empty label": ('{"text": "x", "label": ""}', "The label is empty"),
    "a label of two lines": (r'{"text": "x", "label": "a\nb"}', "control character"),
    "a long label": (json.dumps({"text": "x", "label": "y" * 257}), "257 characters"),
    "a label twice": ('{"text": "x", "labels": ["bug", "bug"]}', "twice"),
    "many labels": (json.dumps({"text": "x", "labels": [str(n) for n in range(1_001)]}), "1001 labels"),
    "a long text": (json.dumps({"text": "y" * (Limits().text_chars + 1), "label": "bug"}), "400001 characters"),
    "another label": ('{"text": "x", "label": "question"}', "not among `labels`"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_refused_by_its_number(http: httpx2.Client, daemon: Daemon, kind: str) -> None:
    line, said = BAD_LINES[kind]
    labels = ["billing", "bug"] if kind == "another label" else None
    file_id = upload(http, "\n".join([*ROWS[:4], "", line, *ROWS[4:]]).encode())
    message = refused(http, "invalid_file", "training_file", training_file=file_id, labels=labels)
    assert message.startswith("line 6: ")
    assert said in message
    if kind != "another label":
        message = refused(http, "invalid_file", "validation_file", training_data=TICKETS, validation_file=file_id)
        assert message.startswith("line 6: ")


def test_what_a_file_lacks_as_a_whole_has_no_line(http: httpx2.Client) -> None:
    for content, said in (
        (b"\n", "At least 2 different labels"),
        (lines(TICKETS[:5]), "At least 2 different labels"),
        (lines(TICKETS[:-1]), "Each label needs at least 5 rows: 'bug' has 4"),
    ):
        message = refused(http, "invalid_file", "training_file", training_file=upload(http, content))
        assert message.startswith(said)


def test_more_rows_than_allowed_are_not_read(http: httpx2.Client) -> None:
    most = Limits().rows
    file_id = upload(http, lines(made_up(2)) * (most // 2) + b"{\n")
    assert "more than 50000 rows" not in refused(http, "invalid_file", "training_file", training_file=file_id)
    file_id = upload(http, lines(made_up(2)) * (most // 2) + lines(made_up(1)) + b"{\n")
    assert "more than 50000 rows" in refused(http, "invalid_file", "training_file", training_file=file_id)


def test_the_id_must_be_of_a_file_to_train_on(http: httpx2.Client) -> None:
    for unknown in ("file-unknown", "x", "file-" + "0" * 10_000, "ftjob-1", "../../etc/passwd"):
        said = refused(http, "file_not_found", "training_file", training_file=unknown)
        assert unknown not in said
        refused(http, "file_not_found", "validation_file", training_data=TICKETS, validation_file=unknown)
    batch = upload(http, lines(TICKETS), "batch")
    assert "batch" in refused(http, "invalid_file", "training_file", training_file=batch)
    assert "batch" in refused(http, "invalid_file", "validation_file", training_data=TICKETS, validation_file=batch)
    for value in (5, ["a"], {"id": "a"}):
        refused(http, None, "training_file", training_file=value)
    for nothing in ({"training_file": ""}, {"training_file": None}, {}):
        refused(http, None, "training_data", **nothing)


def test_beside_another_input_only_a_file_of_ones_own_is_one_too_many(http: httpx2.Client) -> None:
    file_id = upload(http, lines(TICKETS))
    for ignored in ("", None, "file-unknown", 5, {"a": []}, "x" * 1_000):
        made = create(http, training_data=TICKETS, training_file=ignored)
        assert made["training_file"] == "file-inline-" + made["id"]
    said = refused(http, None, "training_file", training_data=TICKETS, training_file=file_id)
    assert "training_data and training_file" in said


def test_a_refused_file_leaves_no_run_directory(quiet: Daemon) -> None:
    with quiet.http() as http:
        bad, good = upload(http, b"{"), upload(http, lines(TICKETS))
        with nothing_written(quiet):
            refused(http, "invalid_file", "training_file", training_file=bad)
            refused(http, "invalid_file", "validation_file", training_file=good, validation_file=bad)
            refused(http, "base_model_not_found", "base_model", training_file=good, base_model="nobody")
        for file_id in (bad, good):
            http.delete(f"/v1/files/{file_id}").raise_for_status()


def test_a_retried_create_finds_its_job_though_the_file_is_gone(http: httpx2.Client) -> None:
    body = {"training_file": upload(http, lines(TICKETS)), "suffix": "again"}
    first = create(http, **body)
    http.delete(f"/v1/files/{body['training_file']}").raise_for_status()
    again = http.post(CREATE, json=body, headers={"x-stainless-retry-count": "1"})
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    refused(http, "file_not_found", "training_file", **body)


def test_a_waiting_job_keeps_its_files_when_they_are_deleted_and_the_directory_moves(
    start_daemon: Callable[..., Daemon],
) -> None:
    daemon = start_daemon(REFLEXD_TRAINING__HOLD="true")
    with daemon.http() as http:
        files = [upload(http, lines(rows)) for rows in (TICKETS, JUDGE)]
        job = create(http, training_file=files[0], validation_file=files[1], suffix="held")
        for file_id in files:
            http.delete(f"/v1/files/{file_id}").raise_for_status()
        assert list((daemon.data_dir / "files").iterdir()) == []
    assert daemon.stop() == 0
    daemon.data_dir = daemon.data_dir.rename(daemon.data_dir.with_name("moved"))
    daemon.env["REFLEXD_TRAINING__HOLD"] = "false"
    daemon.start()
    with daemon.http() as http:
        done = succeeded(http, job["id"])
        assert (done["training_file"], done["validation_file"]) == tuple(files)
        assert done["result"]["n"] == len(JUDGE)
        left = {entry.name for entry in (daemon.data_dir / "runs" / job["id"]).iterdir()}
        assert left.isdisjoint({"training.file", "validation.file"}), "the contents are gone from there too"


# --- validation_file ------------------------------------------------------------------------------------------------


def answers(http: httpx2.Client, model: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    body = {"model": model, "texts": [row["text"] for row in rows]}
    found: list[dict[str, Any]] = http.post("/v1/reflex/predict", json=body).json()["predictions"]
    return found


def test_the_score_is_that_of_the_served_model_on_the_given_rows(http: httpx2.Client, daemon: Daemon) -> None:
    made = create(http, training_data=TICKETS, validation_file=upload(http, lines(JUDGE)), suffix="judged")
    result = succeeded(http, made["id"])["result"]
    right = [a["label"] == row["label"] for a, row in zip(answers(http, "judged", JUDGE), JUDGE, strict=True)]
    assert 0 < sum(right) < len(JUDGE)
    assert (result["method"], result["n"], result["accuracy"]) == ("validation_file", 5, sum(right) / 5)
    low, high = result["interval"]
    assert low < result["accuracy"] < high
    assert {label: found["n"] for label, found in result["per_label"].items()} == {"billing": 2, "bug": 3}
    assert [sum(line) for line in result["confusion"]["matrix"]] == [2, 3]
    assert 0 <= result["baseline"]["tfidf"]["accuracy"] <= 1
    assert result["baseline"]["majority"] == 0.6
    before = result["cross_validated"]
    assert (before["n"], before["method"]) == (10, "5-fold cross-validation")
    assert 0 <= before["accuracy"] <= 1
    assert result["recipe"]
    said = [event["message"] for event in http.get(f"{CREATE}/{made['id']}/events?limit=100").json()["data"]]
    assert any(message.startswith("Accuracy on the validation file") for message in said)
    page = daemon.cli("jobs", "report", made["id"])
    assert "5 rows of the validation file" in page
    assert "5-fold cross-validation" in page


def test_thresholds_and_temperature_are_the_served_ones(http: httpx2.Client) -> None:
    rows = [{"text": row["text"], "labels": [row["label"]]} for row in made_up(80)]
    rows += [{"text": f"{row['text']} and more", "labels": ["cat", "dog"]} for row in made_up(40)]
    judge = [{"text": f"here {n} is a cat", "labels": ["cat"]} for n in range(20)]
    judge += [{"text": f"a dog {n} meets a cat", "labels": ["cat", "dog"]} for n in range(20)]
    judge += [{"text": f"nothing of note {n}", "labels": []} for n in range(20)]
    made = create(http, training_data=rows, validation_file=upload(http, lines(judge)), suffix="several")
    result = succeeded(http, made["id"])["result"]
    chosen = [{c["label"] for c in a["classes"] if c["selected"]} for a in answers(http, "several", judge)]
    right = sum(found == set(row["labels"]) for found, row in zip(chosen, judge, strict=True))
    assert (result["n"], result["accuracy_of"]) == (60, "exact label sets")
    assert result["accuracy"] == round(right / 60, 4)
    assert (result["calibration"], result["cross_validated"]["calibration"]) == ("temperature", "temperature")
    assert 0 <= result["ece"] <= 1
    caught = sum(len(found & set(row["labels"])) for found, row in zip(chosen, judge, strict=True))
    named, true = sum(map(len, chosen)), sum(len(row["labels"]) for row in judge)
    assert result["micro_f1"] == round(2 * caught / (named + true), 4)


def test_rows_that_stand_in_the_training_are_left_out_and_counted(http: httpx2.Client) -> None:
    leaked = [TICKETS[0], {**TICKETS[6], "text": TICKETS[6]["text"].upper() + " "}, TICKETS[2]]
    file_id = upload(http, lines([*leaked, *JUDGE, JUDGE[0]]))
    made = create(http, training_data=TICKETS, validation_file=file_id, suffix="leaky")
    result = succeeded(http, made["id"])["result"]
    assert (result["method"], result["n"]) == ("validation_file", 6)
    judged = [*JUDGE, JUDGE[0]]
    right = [a["label"] == row["label"] for a, row in zip(answers(http, "leaky", judged), judged, strict=True)]
    assert result["accuracy"] == round(sum(right) / 6, 4)
    told = {warning["code"]: warning["message"] for warning in result["warnings"]}
    assert told["validation_rows_seen"].startswith("3 rows of the validation file stand in the training rows")
    events = http.get(f"{CREATE}/{made['id']}/events?limit=100").json()["data"]
    assert told["validation_rows_seen"] in [event["message"] for event in events if event["level"] == "warn"]


def test_a_file_of_training_rows_alone_scores_nothing(http: httpx2.Client) -> None:
    made = create(http, training_data=TICKETS, validation_file=upload(http, lines(TICKETS)))
    result = succeeded(http, made["id"])["result"]
    assert (result["method"], result["n"]) == ("5-fold cross-validation", 10)
    assert "cross_validated" not in result
    codes = [warning["code"] for warning in result["warnings"]]
    assert codes[:2] == ["validation_rows_seen", "validation_rows_none_left"]


def test_what_too_few_rows_to_hold_out_do_not_give_the_file_does(http: httpx2.Client) -> None:
    rows = [TICKETS[0]] * 5 + [TICKETS[5]] * 5
    made = create(http, training_data=rows, validation_file=upload(http, lines(JUDGE)))
    result = succeeded(http, made["id"])["result"]
    assert (result["method"], result["n"]) == ("validation_file", 5)
    assert result["accuracy"] is not None
    assert (result["cross_validated"]["accuracy"], result["cross_validated"]["n"]) == (None, 0)


def test_a_validation_file_must_fit_the_job(http: httpx2.Client) -> None:
    unknown = upload(http, lines([*JUDGE, {"text": "When do you open", "label": "question"}]))
    said = refused(http, "invalid_file", "validation_file", training_data=TICKETS, validation_file=unknown)
    assert said == "line 6: The job has no label 'question'"
    several = upload(http, lines([{"text": "x", "labels": ["bug"]}]))
    said = refused(http, "invalid_file", "validation_file", training_data=TICKETS, validation_file=several)
    assert said.startswith("line 1: ")
    empty = upload(http, b"\n\n")
    assert "no rows" in refused(http, "invalid_file", "validation_file", training_data=TICKETS, validation_file=empty)
    refused(http, None, "validation_file", training_data=TICKETS, validation_file=5)
    for nothing in (None, ""):
        assert create(http, training_data=TICKETS, validation_file=nothing)["validation_file"] is None


def test_a_tuned_encoder_is_scored_as_it_serves(http: httpx2.Client) -> None:
    rows = [*made_up(60), *({"text": f"plain {n}", "label": "none"} for n in range(30))]
    judge = [{"text": f"{n} is a {('cat', 'dog')[n % 2]}", "label": ("cat", "dog")[n % 3 > 0]} for n in range(30)]
    made = create(
        http,
        training_data=rows,
        validation_file=upload(http, lines(judge)),
        suffix="tuned",
        hyperparameters={"budget_seconds": 60},
    )
    result = succeeded(http, made["id"])["result"]
    right = [a["label"] == row["label"] for a, row in zip(answers(http, "tuned", judge), judge, strict=True)]
    print(result["recipe"])
    assert (result["n"], result["accuracy"]) == (30, round(sum(right) / 30, 4))

"""Shows that odd rows train and are told of, and that the one knob, budget_seconds, is checked and told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from reflexd.registry.artifacts import ADAPTER, read_manifest
from tests import jobs
from tests.daemons import ROOT, Daemon, running, wait_for
from tests.integration.refusals import check_error
from tests.rows import TICKETS, Row, draw, made_up, questions, read_gzip

CREATE = "/v1/fine_tuning/jobs"
PREDICT = "/v1/reflex/predict"
TUNING = 20.0
"""Seconds that are enough to tune on a few dozen rows, and not on hundreds."""


@pytest.fixture(scope="module")
def served() -> Iterator[Daemon]:
    with running(REFLEXD_TRAINING__SLOTS="1", REFLEXD_TRAINING__THREADS="1") as daemon:
        yield daemon
        errors = [line for line in daemon.log().splitlines() if '"level": "error"' in line]
        assert not [line for line in errors if "model unusable" not in line]  # which a test brings about
        assert not list(daemon.data_dir.glob("runs/*/worker.log"))


@pytest.fixture
def sdk(served: Daemon) -> Iterator[openai.OpenAI]:
    with served.openai() as client:
        yield client


def rows(label: str, *texts: str) -> list[Row]:
    return [{"text": text, "label": label} for text in texts]


def many_labels() -> list[Row]:
    path = ROOT.parent / "shared" / "data" / "benchmarks" / "clinc150" / "train.jsonl.gz"
    if path.exists():
        return draw(read_gzip(path), 6, 0)
    return [
        {"text": f"intent {n} said in the way {way}", "label": f"intent_{n}"} for n in range(150) for way in range(6)
    ]


LANGUAGES = [
    *rows(
        "да 👍",
        "Всё отлично работает",
        "最高でした！",
        "هذا رائع جدا",
        "Tout va bien 🎉🎉",
        "👩‍👩‍👧‍👦❤️",
        "Großartig, danke!",
    ),
    *rows("нет 👎", "Ничего не работает", "最悪でした…", "هذا سيئ جدا", "Rien ne va 😡", "💔🤮", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘", "Furchtbar"),
]
SAME = rows("spam", *["Buy now!"] * 7) + rows("ham", *(f"Shall we meet at {n} o'clock?" for n in range(1, 8)))
TWICE = [
    *TICKETS,
    {"text": TICKETS[0]["text"], "label": "bug"},
    {"text": TICKETS[7]["text"].upper(), "label": "billing"},
]
RARE = made_up(1188)[::2] + rows("dog", *(f"Dog number {n} barks" for n in range(6)))
LONG = [
    *TICKETS,
    *rows("bug", "It crashes whenever I press that button " * 2_858),
]
NOTHING = [
    *TICKETS,
    *rows("bug", "\u200b", "\u200b\u200d", "\x01\x02\x7f", "\ufeff"),
    *rows("billing", "\u2060\u2060", "\x1b"),
]
ONLY_NOTHING = rows("a", *("\u200b" * n for n in range(1, 7))) + rows("b", *("\x01" * n for n in range(1, 7)))
# What is odd: (rows, seconds of tuning, codes of warnings that must be there, whether there is a score).
ODD: dict[str, tuple[list[Row], float, set[str], bool]] = {
    "one row more than the least": ([*TICKETS, *rows("bug", "It hangs")], TUNING, set(), True),
    "150 labels of 6 rows": (many_labels(), 3.0, set(), True),
    "all rows of a label identical": (SAME, TUNING, {"identical_rows_only"}, True),
    "all rows of all labels identical": (SAME[:7] + rows("ham", *["No"] * 7), TUNING, {"identical_rows_only"}, False),
    "one text under two labels": (TWICE, TUNING, {"conflicting_labels"}, True),
    "one label of 99 %": (RARE, 2.0, {"rare_labels"}, True),
    "languages and emoji": (LANGUAGES, TUNING, set(), True),
    "20,000 words": (LONG, 0.0, {"long_rows"}, True),
    "nothing to read in some": (NOTHING, TUNING, {"conflicting_labels"}, True),
    "nothing to read in any": (ONLY_NOTHING, TUNING, {"conflicting_labels"}, False),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_rows_train_and_are_told_of(sdk: openai.OpenAI, name: str) -> None:
    given, seconds, codes, scored = ODD[name]
    job = jobs.train(sdk, given, hyperparameters={"budget_seconds": seconds}, seed=1)
    result = job.model_extra["result"]
    assert codes <= {warning["code"] for warning in result["warnings"]}
    assert (result["accuracy"] is not None) == (result["n"] > 0) == scored
    assert json.dumps(result, allow_nan=False), "no NaN and no infinity"
    answer = jobs.predict(sdk, job.id, "I was charged twice 👍")
    assert answer["label"] in {row["label"] for row in given}
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_thousand_short_rows_train(sdk: openai.OpenAI) -> None:
    job = jobs.create(sdk, made_up(20_000), hyperparameters={"budget_seconds": 0})
    wait_for(lambda: jobs.status(sdk, job.id) not in jobs.ACTIVE, "20,000 rows are trained on", 800)
    done = sdk.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded", done.error
    assert done.model_extra["result"]["accuracy"] > 0.95


def test_a_tuned_model_whose_adapter_is_damaged_is_told_as_unusable(served: Daemon, sdk: openai.OpenAI) -> None:
    job = jobs.train(sdk, questions(8), hyperparameters={"budget_seconds": 60}, seed=1)
    (folder,) = [
        path.parent
        for path in served.data_dir.glob(f"models/*/{ADAPTER}")
        if read_manifest(path.parents[1], path.parent.name).lineage["job_id"] == job.id
    ]
    whole = (folder / ADAPTER).read_bytes()
    (folder / ADAPTER).write_bytes(whole[:-1] + b"\x55")
    with served.http() as http:
        answer = http.post(PREDICT, json={"model": job.id, "text": "Where is the Nile?"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (500, "model_unusable", "api_error")
        assert str(served.data_dir) not in answer.text
        (folder / ADAPTER).write_bytes(whole)
        answer = http.post(PREDICT, json={"model": job.id, "text": "Where is the Nile?"})
    assert (answer.status_code, answer.json()["label"]) == (200, "LOC")


BUDGETS = {
    "negative": "-1",
    "a string": '"60"',
    "NaN as a string": '"NaN"',
    "huge": "1e300",
    "more than a day": "86401",
    "more than the operator allows": "3601",
    "a list": "[60]",
    "true": "true",
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_bad_budget_is_named(served: Daemon, name: str) -> None:
    content = json.dumps({"training_data": TICKETS, "hyperparameters": {"budget_seconds": "X"}}).replace(
        '"X"', BUDGETS[name]
    )
    before = served.runs()
    with served.http() as http:
        answer = http.post(CREATE, content=content)
    check_error(served, answer, 400, None, "hyperparameters.budget_seconds")
    assert served.runs() == before


def test_a_number_past_any_float_is_refused(served: Daemon) -> None:
    content = b'{"training_data": [], "hyperparameters": {"budget_seconds": 1e999}}'
    with served.http() as http:
        answer = http.post(CREATE, content=content)
    param = answer.json()["error"]["param"]
    assert param.startswith("hyperparameters")  # the decoder cannot tell which key of a map it was
    check_error(served, answer, 400, None, param)


def test_no_number_is_no_json(served: Daemon) -> None:
    """What Python's json writes for a float that is none: not JSON, so there is no field yet that could be named."""
    content = json.dumps({"training_data": TICKETS, "hyperparameters": {"budget_seconds": float("nan")}})
    assert "NaN" in content
    with served.http() as http:
        answer = http.post(CREATE, content=content)
    check_error(served, answer, 400, "invalid_json", answer.json()["error"]["param"])


@pytest.mark.parametrize(
    ("given", "echoed"),
    [
        ({"budget_seconds": 0}, {"budget_seconds": 0.0}),
        ({"budget_seconds": 3_600}, {"budget_seconds": 3_600.0}),
        ({"budget_seconds": "auto"}, {}),
        ({"budget_seconds": None}, {}),
        (None, {}),
        ({"budget_seconds": 1.5, "n_epochs": 3, "batch_size": "auto"}, {"budget_seconds": 1.5}),
    ],
)
def test_the_job_tells_its_budget(sdk: openai.OpenAI, given: Any, echoed: dict[str, float]) -> None:
    job = jobs.create(sdk, TICKETS, hyperparameters=given)
    found = sdk.fine_tuning.jobs.retrieve(job.id)
    for one in (job, found):
        assert one.hyperparameters is not None
        assert one.hyperparameters.model_dump(exclude_unset=True) == echoed
    said = [message for message in jobs.messages(sdk, job.id) if "ignored" in message]
    assert len(said) == ("n_epochs" in (given or {}))
    assert all("n_epochs" in message and "batch_size" not in message for message in said)
    sdk.fine_tuning.jobs.cancel(job.id)

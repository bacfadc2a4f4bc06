"""Shows that the daemon answers as its published description says, over thousands of generated requests, good and bad.

Training is held meanwhile, so that jobs are accepted and none starts. A generated request seldom names what exists, so
half of the good ones are given a job or a model of the first, unheld run of the daemon.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.generation import GenerationMode

from tests import batches
from tests.daemons import Daemon, new_directory, wait_for
from tests.jobs import create, train
from tests.receivers import receiving
from tests.rows import TICKETS

ROWS = b'{"text": "It is broken", "label": "bug"}'
CASES = 2_500
SEED = 7335
POSITIVE = GenerationMode.POSITIVE
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)
# A generated body may be refused although it fits the schema: that each label has five rows, or that exactly one input
# is given, stands in the descriptions. So acceptance is not demanded, but each operation must have succeeded somewhere.


@dataclass
class Known:
    """What exists in the daemon, for requests that are to meet it; each list is used in turn."""

    trained: str
    models: list[str]
    doomed: Iterator[str]
    files: list[str] = field(default_factory=list)
    doomed_files: Iterator[str] = field(default_factory=lambda: iter(()))
    jobs: dict[str, Iterator[str]] = field(default_factory=dict)
    batches: dict[tuple[str, str], Iterator[str]] = field(default_factory=dict)
    """By the first part of the path that differs, and by the last."""
    file: str = ""
    hook: str = ""
    endpoints: list[str] = field(default_factory=list)
    doomed_endpoints: Iterator[str] = field(default_factory=lambda: iter(()))
    deliveries: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def held() -> Iterator[tuple[Daemon, Known]]:
    """A daemon that holds training, over what an earlier one has trained and prepared."""
    with new_directory() as folder, receiving() as receiver:
        daemon = Daemon(folder / "d", REFLEXD_NETWORK__ALLOW="127.0.0.1")
        try:
            daemon.start()
            with daemon.openai() as client:
                trained = train(client, TICKETS, "tickets").id
                train(client, [{"text": row["text"], "labels": [row["label"]]} for row in TICKETS], "topics")
                doomed = [train(client, TICKETS, f"doomed {number}").suffix for number in range(3)]
                prepared = [create(client, TICKETS, auto_train=False).id for _ in range(7)]
            with daemon.http() as http:  # `prepared` is no status of the SDK's
                for job_id in prepared:
                    wait_for(
                        lambda: http.get(f"/v1/fine_tuning/jobs/{job_id}").json()["status"] == "prepared",  # noqa: B023
                        f"{job_id} is prepared",
                    )
            assert daemon.stop() == 0
            daemon.env["REFLEXD_TRAINING__HOLD"] = "true"
            daemon.start()
            known = Known(trained, ["tickets", "topics", trained, "tickets@1"], doomed=iter(map(str, doomed)))
            with daemon.openai() as client:
                queued = [create(client, TICKETS).id for _ in range(60)]
                files = [client.files.create(file=("a", ROWS), purpose="fine-tune").id for _ in range(10)]
            known.files, known.doomed_files = files[:5], iter(files[5:])
            known_batches(daemon, known)
            known_webhooks(daemon, known, receiver.url)
            known.jobs = {
                "train": iter(prepared[1:]),
                "put": itertools.cycle(prepared[:1]),
                "cancel": iter(queued[:10]),
                "delete": iter(queued[10:20]),
                "pause": itertools.cycle(queued[20:40]),
                "resume": itertools.cycle(queued[20:40]),
                "get": itertools.cycle([trained, *queued[40:]]),
            }
            yield daemon, known
        finally:
            daemon.close()


def known_batches(daemon: Daemon, known: Known) -> None:
    """Make batches that have ended, and of each kind one that takes minutes, to be cancelled."""
    long = " ".join(f"word{n}" for n in range(500))
    body = {"endpoint": "/v1/reflex/predict", "completion_window": "24h"}
    with daemon.openai() as client, daemon.http() as http:
        ended = batches.upload(http, batches.rows_of(3))
        slow = [{**row, "text": row["text"] + long} for row in batches.rows_of(2_000)]
        doomed = batches.upload(http, slow, long_text="chunk")
        known.file = batches.put_file(client, b"{}\n")
        failed = http.post("/v1/batches", json={**body, "input_file_id": known.file}).json()["id"]
        lines = [batches.line(row["id"], model="tickets", text=row["text"], long_text="chunk") for row in slow]
        file_id = batches.put_file(client, batches.jsonl(lines))
        cancelled = http.post("/v1/batches", json={**body, "input_file_id": file_id}).json()["id"]
        batches.wait_for_end(http, ended)
    known.batches = {
        ("reflex", "get"): itertools.cycle([ended]),
        ("reflex", "results"): itertools.cycle([ended]),
        ("reflex", "cancel"): iter([doomed]),
        ("batches", "get"): itertools.cycle([failed, cancelled]),
        ("batches", "cancel"): iter([cancelled]),
    }


def known_webhooks(daemon: Daemon, known: Known, url: str) -> None:
    """Make endpoints that answer, and a delivery to them."""
    known.hook = url
    with daemon.openai() as client, daemon.http() as http:
        made = [client.webhooks.create(name="n", url=url, event_types=["batch.expired"]).id for _ in range(10)]
        known.endpoints, known.doomed_endpoints = made[:5], iter(made[5:])
        client.fine_tuning.jobs.cancel(create(client, TICKETS, webhook_url=url).id)
        known.deliveries = [each["id"] for each in http.get("/v1/webhook_deliveries").json()["data"]]


@pytest.fixture
def steered(held: tuple[Daemon, Known]) -> Iterator[None]:
    """Let half of the good requests meet what exists."""
    known = held[1]
    chance = random.Random(SEED)

    @schemathesis.hook
    def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
        operation = case.operation.path.rpartition("/")[2]
        for name, value in (case.path_parameters or {}).items():
            if case.method == "DELETE" and value in known.models:  # the other requests need it
                case.path_parameters[name] = "gone"
        if case.query and "stream" in case.query:  # of a job that waits, a stream would not end
            case.path_parameters["job_id"] = known.trained
        elif case.meta is not None and case.meta.generation.mode is POSITIVE and chance.random() < 0.5:
            steer(case, known, chance, operation)

    yield
    schemathesis.hooks.unregister(before_call)


def steer(case: schemathesis.Case, known: Known, chance: random.Random, operation: str) -> None:
    """Replace ids and names of a generated request by some that exist."""
    path = case.path_parameters or {}
    if "job_id" in path:
        kind = operation if operation in known.jobs else case.method.lower()
        if kind == "put":
            case.body = "".join(json.dumps(row) + "\n" for row in TICKETS)
        path["job_id"] = next(known.jobs.get(kind, known.jobs["get"]), path["job_id"])
    if "batch_id" in path:
        kind = operation if operation in ("results", "cancel") else "get"
        path["batch_id"] = next(known.batches[case.operation.path.split("/")[2], kind], path["batch_id"])
    if "model" in path:
        path["model"] = next(known.doomed, "x") if case.method == "DELETE" else chance.choice(known.models)
    if "file_id" in path:
        path["file_id"] = next(known.doomed_files, "x") if case.method == "DELETE" else chance.choice(known.files)
    if "endpoint_id" in path:
        doomed = case.method == "DELETE"
        path["endpoint_id"] = next(known.doomed_endpoints, "x") if doomed else chance.choice(known.endpoints)
    if "delivery_id" in path:
        path["delivery_id"] = chance.choice(known.deliveries)
    if isinstance(case.body, dict):
        complete(case.body, known, chance, operation)


def complete(body: dict[str, Any], known: Known, chance: random.Random, operation: str) -> None:
    """Give a generated body names that exist, and a create request rows that a classifier can be trained on."""
    if operation == "jobs":
        for name in ("generate", "label_data", "labels", "base_model", "model", "validation_file"):
            body.pop(name, None)
        if chance.random() < 0.3:
            body["validation_file"] = chance.choice(known.files)
        body["training_data"] = TICKETS
        if chance.random() < 0.3:
            body["base_model"] = chance.choice(known.models)
    if isinstance(body.get("model"), str):
        body["model"] = chance.choice(known.models)
    if isinstance(body.get("models"), list):
        body["models"] = known.models[: chance.randint(1, 4)]
    for row in body["requests"] if isinstance(body.get("requests"), list) else ():
        if isinstance(row, dict) and "model" in row:
            model = chance.choice(known.models)
            row["model"] = [model] if operation == "upload" else model
    if "url" in body or operation == "webhook_endpoints":
        body["url"] = known.hook
    if operation == "batches":
        body["input_file_id"] = known.file


@schemathesis.serializer("application/jsonl")
def json_lines(_: schemathesis.SerializationContext, value: object) -> bytes:
    """Spell a body of JSON lines, which is a string, as it is."""
    return str(value).encode(errors="replace")


@pytest.mark.timeout(600)
def test_thousands_of_generated_requests_are_answered_as_described(held: tuple[Daemon, Known], steered: None) -> None:
    daemon, _ = held
    config = SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "workers": 1,
            "continue-on-failure": True,
            "request-timeout": 60,
            "headers": {"Authorization": f"Bearer {daemon.admin_key}"},
            "generation": {"max-examples": 120, "deterministic": True, "database": "none", "no-shrink": True},
            "checks": {
                "enabled": False,
                **{name: {"enabled": True} for name in CHECKS},
                "negative_data_rejection": {"enabled": True, "expected-statuses": [400, 401, 403, 404, 405, 409, 413]},
            },
            "operations": [  # what is wrong with a row of a batch is told in its place, in a 200
                {
                    "include-operation-id": operation,
                    "checks": {"negative_data_rejection": {"enabled": False}},
                }
                for operation in ("predictBatch", "uploadBatch")
            ],
            "phases": {"stateful": {"enabled": False}},
        }
    )
    schema = schemathesis.openapi.from_url(f"{daemon.url}/openapi.json", config=config)
    sent: Counter[str] = Counter()
    ran: Counter[str] = Counter()
    statuses: defaultdict[str, Counter[int]] = defaultdict(Counter)
    problems: dict[str, str] = {}
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError):
            problems[event.label] = repr(event.value)
        elif isinstance(event, events.FatalError):
            raise event.exception
        elif isinstance(event, events.ScenarioFinished):
            recorder = event.recorder
            for case_id, interaction in recorder.interactions.items():
                case = recorder.cases[case_id].value
                sent[event.phase.value] += 1
                answer = interaction.response
                statuses[f"{case.operation.method.upper()} {case.operation.path}"][
                    answer.status_code if answer else 0
                ] += 1
            for checks in recorder.checks.values():
                for check in checks:
                    ran[check.name] += 1
                    if check.failure_info is not None:
                        failure = check.failure_info.failure
                        problems[f"{check.name}: {failure.title} {failure.operation}"] = (
                            f"{failure.message}\n{check.failure_info.code_sample}"
                        )
    for label, counts in sorted(statuses.items()):
        print(label, dict(sorted(counts.items())))
    print("cases:", sum(sent.values()), dict(sent), "checks:", dict(ran))
    assert not problems, "\n\n".join(f"{title}\n{said}" for title, said in problems.items())
    assert [label for label, counts in statuses.items() if 200 not in counts or 0 in counts] == []
    assert set(statuses) == {f"{op.ok().method.upper()} {op.ok().path}" for op in schema.get_all_operations()}
    assert set(ran) == set(CHECKS)
    assert sum(sent.values()) >= CASES

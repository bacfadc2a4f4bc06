"""Shows that a job may start from a trained model: which one its name means, that it is pinned, and what refuses it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import jobs
from tests.daemons import Daemon, wait_for
from tests.integration.refusals import check_error
from tests.rows import TICKETS, Row, endless, made_up

CREATE = "/v1/fine_tuning/jobs"
QUESTIONS = (
    "Do you deliver to islands",
    "When do you open on Sundays",
    "Is there a student price",
    "Which sizes are there",
    "Can I visit your shop",
)
GROWN: list[Row] = [*TICKETS, *({"text": text, "label": "question"} for text in QUESTIONS)]


def warm(client: openai.OpenAI, base: str, suffix: str, rows: list[Row] = GROWN, **body: Any) -> Any:
    return jobs.train(client, rows, suffix, base_model=base, **body)


def folder_of(daemon: Daemon, client: openai.OpenAI, job_id: str) -> Path:
    """Return the folder of the model that a job made, by the manifest's own word."""
    for entry in (daemon.data_dir / "models").iterdir():
        if json.loads((entry / "manifest.json").read_bytes())["lineage"]["job_id"] == job_id:
            return entry
    raise AssertionError(f"no model of {job_id}")


def test_a_job_grows_a_model_by_a_label_and_leaves_it_as_it_was(daemon: Daemon, client: openai.OpenAI) -> None:
    source = jobs.train(client, TICKETS, "source")
    files = {path.name: path.read_bytes() for path in folder_of(daemon, client, source.id).iterdir()}
    before = jobs.predict(client, "source", "the app freezes")
    job = warm(client, "source", "grown")
    assert (job.model, job.model_extra["base_model"], job.model_extra["base_model_version"]) == (
        "morph-reflex-v1",
        "source",
        1,
    )
    assert job.model_extra["labels"] == ["billing", "bug", "question"]
    assert jobs.predict(client, "grown", "do you open on Mondays")["label"] == "question"
    assert jobs.predict(client, "grown", "the app freezes")["label"] == "bug"
    assert {path.name: path.read_bytes() for path in folder_of(daemon, client, source.id).iterdir()} == files
    after = jobs.predict(client, "source", "the app freezes")
    assert after["all_scores"] == before["all_scores"]
    lineage = json.loads((folder_of(daemon, client, job.id) / "manifest.json").read_bytes())["lineage"]
    assert lineage == {"job_id": job.id, "base_model": "source", "base_model_version": 1}


def test_what_the_base_has_learnt_is_used(client: openai.OpenAI) -> None:
    jobs.train(client, made_up(200), "knows-animals")
    few = [
        {"text": f"{word} number {n}", "label": label}
        for label, word in (("cat", "thing"), ("dog", "item"))
        for n in range(5)
    ]
    jobs.train(client, few, "cold")
    warm(client, "knows-animals", "warm", few)
    questions = [
        (f"row {n} has a {label} word0 word1 word2", label) for n in range(1_000, 1_020) for label in ("cat", "dog")
    ]
    right = {
        name: sum(jobs.predict(client, name, text)["label"] == label for text, label in questions)
        for name in ("cold", "warm")
    }
    assert right["warm"] > right["cold"], right


@pytest.mark.parametrize("style", ["base_model", "model", "both"])
def test_either_field_names_the_source_and_the_echo_follows(client: openai.OpenAI, style: str) -> None:
    source = jobs.train(client, TICKETS, "named")
    for name in ("named", "named@1", source.id):
        extra: dict[str, Any] = {"training_data": GROWN}
        if style != "model":
            extra["base_model"] = name
        model = name if style != "base_model" else "morph-reflex-v1"
        job = client.fine_tuning.jobs.create(model=model, training_file="", extra_body=extra)
        assert job.model == (name if style == "model" else "morph-reflex-v1")
        assert (job.model_extra["base_model"], job.model_extra["base_model_version"]) == (name, 1)
        jobs.delete(client, job.id)


def test_the_version_is_pinned_at_create(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(REFLEXD_TRAINING__RUNNING_PER_KEY="1")
    other = daemon.create_key("other", "--tenant", "admin")
    with daemon.openai() as client, daemon.openai(other) as retrainer:
        jobs.train(client, TICKETS, "moving")
        blocking = jobs.create(client, endless())
        jobs.wait_for_status(client, blocking.id, "running")
        waiting = jobs.create(client, GROWN, "pinned", base_model="moving")
        twin = jobs.create(client, GROWN, "twin", base_model="moving", seed=waiting.seed)
        swapped = [{**row, "label": {"bug": "billing", "billing": "bug"}[row["label"]]} for row in TICKETS]
        again = jobs.train(retrainer, swapped, "moving")
        assert again.model_extra["version"] == 2
        assert client.models.delete("moving").deleted, "both versions are gone, and the pinned copy is not"
        jobs.delete(client, blocking.id)
        done = [jobs.wait_for_status(client, job.id, "succeeded") for job in (waiting, twin)]
        assert [job.model_extra["base_model_version"] for job in done] == [1, 1]
        scores = [jobs.predict(client, name, "the app freezes") for name in ("pinned", "twin")]
        assert scores[0]["all_scores"] == scores[1]["all_scores"]
        assert scores[0]["label"] == "bug", "it has started from the first version"


def test_what_cannot_be_started_from_is_refused_by_name(daemon: Daemon, key: str) -> None:
    stranger = daemon.create_key("base-stranger")
    with daemon.http(key) as http, daemon.openai(key) as client, daemon.openai(stranger) as foreign:
        private = jobs.train(foreign, TICKETS, "private")
        busy = jobs.create(client, endless(), "busy")

        def refused(field: str, name: object, status: int, code: str | None, **more: object) -> bytes:
            answer = http.post(CREATE, json={"training_data": TICKETS, field: name, **more})
            check_error(daemon, answer, status, code, field)
            assert status != 409 or answer.headers["x-should-retry"] == "false"
            return answer.content

        for field in ("base_model", "model"):
            answers = {refused(field, name, 400, "base_model_not_found") for name in ("private", private.id, "nobody")}
            assert len(answers) == 1, "another tenant's model is like none"
            refused(field, "busy", 409, "base_model_not_ready")
            refused(field, busy.id, 409, "base_model_not_ready")
            refused(field, "guardrail", 400, "base_model_not_found")
            refused(field, 5, 400, None)
        refused("base_model", "nobody", 400, None, model="somebody")
        jobs.delete(client, busy.id)
        jobs.delete(foreign, private.id)


def test_a_model_of_another_stack_encoder_or_mode_is_incompatible(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    with daemon.openai() as client, daemon.http() as http:
        job = jobs.train(client, TICKETS, "older")
        folder = folder_of(daemon, client, job.id)
        manifest = json.loads((folder / "manifest.json").read_bytes())

        def refused(change: dict[str, Any], word: str, **more: object) -> None:
            (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
            answer = http.post(CREATE, json={"training_data": TICKETS, "base_model": "older", **more})
            assert word in check_error(daemon, answer, 400, "base_model_incompatible", "base_model")

        refused({"stack": manifest["stack"] - 2}, "stack")
        merged = {"kind": "low_rank", "parameters": 8, "rank": 8}
        refused({"stack": manifest["stack"] - 1, "adapter": merged}, "stack")
        refused({"backbone": {**manifest["backbone"], "fingerprint": "0" * 64}}, "encoder")
        refused({"backbone": {**manifest["backbone"], "precision": "../.."}}, "../..")
        refused({}, "multi_label", mode="multi_label")
        (folder / "manifest.json").write_text("{")
        answer = http.post(CREATE, json={"training_data": TICKETS, "base_model": "older"})
        check_error(daemon, answer, 400, "base_model_incompatible", "base_model")
        assert client.fine_tuning.jobs.list().data == [job]
        wait_for(lambda: {n for n in daemon.runs() if not n.startswith(".")} == {job.id}, "no input was left behind")


def test_a_default_reflex_answers_until_an_own_model_shadows_it(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """The plugin and the model are made here: this version of the product ships no default Reflex."""
    maker = start_daemon()
    with maker.openai() as client:
        job = jobs.train(client, TICKETS, "shipped")
        made = folder_of(maker, client, job.id)
        (tmp_path / "reflex").mkdir()
        for path in made.iterdir():
            (tmp_path / "reflex" / path.name).write_bytes(path.read_bytes())
    site = plugin(tmp_path)
    daemon = start_daemon(PYTHONPATH=site)
    with daemon.openai() as client, daemon.http() as http:
        answer = jobs.predict(client, "guardrail", "the app freezes")
        assert (answer["model"], answer["version"], answer["label"]) == ("guardrail", 1, "bug")
        assert jobs.predict(client, "guard-rail", "the app freezes")["model"] == "guardrail"
        assert jobs.predict(client, "guardrail@1", "the app freezes")["model"] == "guardrail"
        (listed,) = client.models.list()
        assert (listed.id, listed.owned_by) == ("guardrail", "reflexd")
        assert client.models.retrieve("guardrail") == listed
        assert http.delete("/v1/models/guardrail").status_code == 400
        assert warm(client, "guardrail", "specialised").model_extra["base_model_version"] == 1

        held = jobs.create(client, endless(), "guardrail")
        for body in (
            {"model": "guardrail"},
            {"models": ["specialised", "guardrail"]},
            {"model": "guardrail@1"},
            {"model": "guard-rail"},
        ):
            with pytest.raises(openai.ConflictError):
                client.post("/reflex/predict", body={**body, "text": "x y"}, cast_to=object)
        for name in ("guardrail", "guardrail@1", "guard-rail"):
            answer = http.post(CREATE, json={"training_data": TICKETS, "base_model": name})
            check_error(daemon, answer, 409, "base_model_not_ready", "base_model")
        jobs.delete(client, held.id)
        swapped = [{**row, "label": "mine"} if row["label"] == "bug" else row for row in TICKETS]
        own = jobs.train(client, swapped, "guardrail")
        assert jobs.predict(client, "guardrail", "the app freezes")["label"] == "mine"
        assert jobs.predict(client, "guard-rail", "the app freezes")["label"] == "mine"
        assert [model.id for model in client.models.list()] == ["guardrail", "specialised"]
        jobs.delete(client, own.id)
        client.models.delete("guardrail")  # what it means now is nobody's to delete, and its own was deleted
        assert http.delete("/v1/models/guardrail").status_code == 400
        assert jobs.predict(client, "guardrail", "the app freezes")["label"] == "bug"
        daemon.stop()
        daemon.start()
        assert jobs.predict(client, "guardrail", "the app freezes")["label"] == "bug"


def plugin(folder: Path) -> str:
    """Write an installed distribution whose plugin offers the default Reflex in folder/reflex; return its path."""
    site = folder / "site"
    (site / "shipped-1.0.dist-info").mkdir(parents=True)
    (site / "shipped-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shipped\nVersion: 1.0\n")
    (site / "shipped-1.0.dist-info" / "entry_points.txt").write_text("[reflexd]\nshipped = shipped\n")
    (site / "shipped.py").write_text(
        "from reflexd import DefaultReflex, hookimpl\n\n"
        "@hookimpl\ndef register_default_reflexes(register):\n"
        f"    where = {str(folder / 'reflex')!r}\n"
        "    register(DefaultReflex(name='guardrail', directory=where, aliases=('guard-rail',)))\n"
    )
    return os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])


def test_models_are_listed_with_what_a_caller_needs(client: openai.OpenAI) -> None:
    job = jobs.train(client, TICKETS, "listed")
    jobs.train(client, TICKETS, "listed")
    (model,) = client.models.list()
    extra = model.model_extra
    assert (model.id, model.object, extra["version"], extra["versions"]) == ("listed", "model", 2, [1, 2])
    assert (extra["labels"], extra["mode"], extra["backbone"]) == (
        ["billing", "bug"],
        "single_label",
        "all-MiniLM-L6-v2",
    )
    assert set(extra["result"]) >= {"accuracy", "f1_score", "n"}
    first = client.models.retrieve(job.id)
    assert (first.id, first.model_extra["version"]) == ("listed@1", 1)
    assert client.models.retrieve("listed@1") == first
    assert client.models.retrieve("listed@2") == model
    for wrong in ("listed@3", "listed@0", "listed@", "listed@01", "@1", "nobody@1"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(wrong)


def test_a_version_can_be_asked(client: openai.OpenAI) -> None:
    jobs.train(client, TICKETS, "asked")
    swapped = [{**row, "label": {"bug": "billing", "billing": "bug"}[row["label"]]} for row in TICKETS]
    jobs.train(client, swapped, "asked")
    found = [jobs.predict(client, name, "the app freezes") for name in ("asked@1", "asked@2", "asked")]
    assert [(a["model"], a["version"], a["label"]) for a in found] == [
        ("asked", 1, "bug"),
        ("asked", 2, "billing"),
        ("asked", 2, "billing"),
    ]


def test_a_failed_later_version_changes_nothing(client: openai.OpenAI, daemon: Daemon, key: str) -> None:
    jobs.train(client, TICKETS, "stays")
    held = jobs.create(client, endless(), "stays")
    assert jobs.predict(client, "stays", "the app freezes")["version"] == 1
    client.fine_tuning.jobs.cancel(held.id)
    assert jobs.predict(client, "stays", "the app freezes")["version"] == 1
    with daemon.http(key) as http:
        assert http.get("/v1/models/stays").json()["versions"] == [1]

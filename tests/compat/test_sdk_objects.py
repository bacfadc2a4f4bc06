"""Shows that the SDK parses every answer of this path in strict mode, and that lists page as it expects."""

from __future__ import annotations

import httpx2
import openai
import pytest

from tests import jobs
from tests.daemons import Daemon
from tests.rows import TICKETS, endless


def counting(daemon: Daemon, key: str) -> tuple[openai.OpenAI, list[httpx2.Request]]:
    """Return a strict client and the list of the requests that it has sent."""
    sent: list[httpx2.Request] = []
    http = httpx2.Client(event_hooks={"request": [sent.append]}, timeout=60)
    return daemon.openai(key, http_client=http), sent


def test_create_retrieve_and_list_agree(client: openai.OpenAI) -> None:
    job = jobs.train(client, TICKETS, "objects", seed=7, metadata={"team": "support"})
    listed = client.fine_tuning.jobs.list().data
    assert [j.id for j in listed] == [job.id]
    assert listed[0] == job
    assert (job.object, job.seed, job.metadata) == ("fine_tuning.job", 7, {"team": "support"})
    assert (job.error, job.result_files) == (None, [])
    assert job.organization_id
    assert job.training_file
    assert job.trained_tokens is not None
    assert job.trained_tokens > 10
    assert job.method is not None
    assert job.method.type == "supervised"
    extra = job.model_extra
    assert (extra["suffix"], extra["version"], extra["mode"], extra["phase"]) == ("objects", 1, "single_label", None)
    assert set(extra) >= {"base_model", "base_model_version", "auto_train", "webhook_url", "labels", "result"}


def test_without_a_suffix_the_job_id_is_the_models_name(client: openai.OpenAI) -> None:
    job = jobs.train(client, TICKETS)
    assert job.fine_tuned_model == job.id
    assert jobs.predict(client, job.id, "the window freezes")["label"] == "bug"


def test_a_suffix_model_answers_to_its_job_id_too(client: openai.OpenAI) -> None:
    job = jobs.train(client, TICKETS, "by-id")
    assert jobs.predict(client, job.id, "the window freezes")["model"] == "by-id"


def test_events_are_oldest_first_and_page_without_gap(daemon: Daemon, key: str, client: openai.OpenAI) -> None:
    job = jobs.train(client, TICKETS, "events")
    whole = client.fine_tuning.jobs.list_events(job.id, limit=100)
    assert not whole.has_more
    found = [event.message for event in whole.data]
    assert found[:2] == ["Job queued", "Job running"]
    assert found[-1].startswith("Job succeeded")
    assert sum(message.startswith("Job succeeded") for message in found) == 1
    assert [event.created_at for event in whole.data] == sorted(event.created_at for event in whole.data)

    first, *losses = [event.data for event in whole.data if event.type == "metrics"]
    assert isinstance(first, dict)
    assert set(first) >= {"step", "early_accuracy"}
    assert losses
    for data in losses:
        assert isinstance(data, dict)
        assert set(data) >= {"epoch", "step", "train_loss"}
    assert losses[-1]["train_loss"] <= losses[0]["train_loss"]

    pager, sent = counting(daemon, key)
    with pager:
        paged = list(pager.fine_tuning.jobs.list_events(job.id, limit=3))
    assert [event.id for event in paged] == [event.id for event in whole.data]
    assert len(sent) == -(-len(paged) // 3)
    rest = client.fine_tuning.jobs.list_events(job.id, after=whole.data[3].id, limit=2).data
    assert rest == whole.data[4:6]


def test_cancel_answers_the_whole_job(client: openai.OpenAI) -> None:
    job = jobs.create(client, endless(), "cancelled")
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    assert cancelled.fine_tuned_model is None
    assert cancelled.error is None
    assert client.fine_tuning.jobs.retrieve(job.id) == cancelled
    assert jobs.messages(client, job.id)[-1] == "Job cancelled"


def test_delete_answers_as_documented_and_then_the_job_is_unknown(client: openai.OpenAI) -> None:
    job = jobs.train(client, TICKETS, "deleted")
    assert jobs.delete(client, job.id) == {"id": job.id, "object": "fine_tuning.job.deleted", "deleted": True}
    with pytest.raises(openai.NotFoundError) as refused:
        client.fine_tuning.jobs.retrieve(job.id)
    assert (refused.value.code, refused.value.type) == ("job_not_found", "invalid_request_error")
    assert refused.value.request_id


def test_models_list_and_retrieve(client: openai.OpenAI) -> None:
    first = jobs.train(client, TICKETS, "with space (and more)")
    second = jobs.train(client, TICKETS, "zweites-modell-ä")
    listed = client.models.list().data
    assert {model.id for model in listed} == {first.fine_tuned_model, second.fine_tuned_model}
    for job in (first, second):
        model = client.models.retrieve(str(job.fine_tuned_model))
        assert model in listed
        assert (model.object, model.model_extra["job_id"]) == ("model", job.id)
        assert model.model_extra["labels"] == ["billing", "bug"]
        assert client.models.retrieve(job.id) == model
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("nobody-trained-this")
    assert refused.value.code == "model_not_found"


def test_what_the_sdk_sends_beside_inline_rows_is_no_obstacle(client: openai.OpenAI) -> None:
    job = client.fine_tuning.jobs.create(
        model="morph-reflex-v1",
        training_file="file-that-nobody-uploaded",
        hyperparameters={"n_epochs": 3},
        method={"type": "supervised"},
        suffix="placeholders",
        extra_body={"training_data": TICKETS, "labels": ["bug", "billing"]},
    )
    done = jobs.wait_for_status(client, job.id, "succeeded")
    assert done.model_extra["labels"] == ["bug", "billing"], "the order given decides the order of the scores"

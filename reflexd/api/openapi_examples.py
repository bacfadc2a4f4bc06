"""Decides the examples of the published description: one small story of a classifier named `tickets`.

Answers are made of the wire's own Structs, so an example has every key that its answer has.
"""

from __future__ import annotations

from typing import Any

import msgspec

from reflexd.schemas.openai import (
    COLD_START,
    Checkpoint,
    CheckpointMetrics,
    Deleted,
    FineTuningJob,
    JobEvent,
    Model,
    Page,
)
from reflexd.schemas.reflex import BatchResult, BatchResults, ClassScore, Prediction, Predictions

JOB_ID = "ftjob-0197c2d4-1c00-7a3b-9f10-5b6c7d8e9f01"
EVENT_ID = "ftevent-0197c2d4-1c00-7a3b-9f10-5b6c7d8e9f01"
BILLING = [
    "There are two charges for one order",
    "Please refund my last payment",
    "The amount on the invoice is wrong",
    "My credit card was declined",
    "I need a receipt for March",
]
BUG = [
    "The app crashes when it starts",
    "Nothing happens when I press save",
    "The page never stops loading",
    "I get error 500 when I upload a file",
    "The export writes broken characters",
]
TEXT = "I was billed twice this month"
RESULT = {"accuracy": 0.9, "f1_score": 0.9}
ROWS = [{"text": text, "label": label} for label, texts in (("billing", BILLING), ("bug", BUG)) for text in texts]

CREATE_REQUESTS: dict[str, Any] = {
    "Labelled rows": {"suffix": "tickets", "training_data": ROWS, "metadata": {"team": "support"}},
    "Rows with several labels or none": {
        "suffix": "topics",
        "labels": ["billing", "bug"],
        "training_data": [
            *({"text": text, "labels": ["billing"]} for text in BILLING),
            *({"text": text, "labels": ["bug"]} for text in BUG),
            {"text": "The invoice page crashes", "labels": ["billing", "bug"]},
            {"text": "Thank you, all is well", "labels": []},
        ],
    },
    "Prepare, and wait for a word before training": {"training_data": ROWS, "auto_train": False, "seed": 7},
    "Go on from a trained model": {"base_model": "tickets", "suffix": "tickets", "training_data": ROWS},
}
PREDICT_REQUESTS: dict[str, Any] = {
    "One text, one model": {"model": "tickets", "text": TEXT},
    "One text, several models": {"models": ["tickets", "topics"], "text": TEXT},
    "Several texts": {"model": "tickets", "texts": [TEXT, "The app crashes"]},
    "Only some keys, and a long text": {
        "model": "tickets",
        "text": TEXT,
        "fields": ["label", "confidence"],
        "long_text": "chunk",
    },
}
BATCH_REQUESTS: dict[str, Any] = {
    "Rows with their own models": {
        "requests": [
            {"id": "a", "model": "tickets", "text": TEXT},
            {"id": "b", "model": ["tickets", "topics"], "text": "The app crashes"},
            {"id": "c", "model": "tickets", "text": ""},
        ]
    }
}
METRICS = """\
# HELP reflexd_predict_waiting Predict requests that are classified or waiting now
# TYPE reflexd_predict_waiting gauge
reflexd_predict_waiting 0.0
"""

NOT_READY: dict[str, Any] = {
    "status": "unavailable",
    "reasons": {"backbone": "the sentence encoder is being loaded"},
}


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _job(**given: Any) -> Any:
    fields: dict[str, Any] = {
        "id": JOB_ID,
        "created_at": 1782000000,
        "status": "queued",
        "model": COLD_START,
        "suffix": "tickets",
        "labels": ["billing", "bug"],
        "mode": "single_label",
        "trained_examples": 10,
        "training_file": f"file-inline-{JOB_ID}",
        "seed": 1234567,
        "organization_id": "support",
        "metadata": {"team": "support"},
    }
    return _plain(FineTuningJob(**(fields | given)))


def queued_job(**given: Any) -> Any:
    """Return a job as it is right after it was created."""
    return _job(**given)


def paused_job() -> Any:
    """Return a job that waits until it is resumed."""
    return _job(paused=True)


def cancelled_job() -> Any:
    """Return a job that was cancelled."""
    return _job(status="cancelled", finished_at=1782000002)


def succeeded_job() -> Any:
    """Return a job whose model answers."""
    return _job(
        status="succeeded",
        finished_at=1782000005,
        fine_tuned_model="tickets",
        version=1,
        trained_tokens=96,
        result=RESULT,
    )


def job_page() -> Any:
    """Return a list of jobs."""
    return _page(succeeded_job())


def deleted_job() -> Any:
    """Return the answer to a job's DELETE."""
    return _plain(Deleted(id=JOB_ID, object="fine_tuning.job.deleted"))


def deleted_model() -> Any:
    """Return the answer to a model's DELETE."""
    return _plain(Deleted(id="tickets", object="model"))


def checkpoint_page() -> Any:
    """Return the one checkpoint of a job that has succeeded."""
    return _page(
        _plain(
            Checkpoint(
                id="ftckpt-" + JOB_ID.removeprefix("ftjob-"),
                created_at=1782000005,
                fine_tuned_model_checkpoint="tickets@1",
                fine_tuning_job_id=JOB_ID,
                metrics=CheckpointMetrics(step=40, train_loss=0.08),
                step_number=40,
            )
        )
    )


def _events() -> list[Any]:
    loss = {"epoch": 1, "step": 4, "train_loss": 0.61}
    first, second = f"{EVENT_ID}-1", f"{EVENT_ID}-2"
    return [
        _plain(JobEvent(id=first, created_at=1782000001, level="info", message="Job created", type="message")),
        _plain(JobEvent(id=second, created_at=1782000002, level="info", message="epoch 1", type="metrics", data=loss)),
    ]


def event_page() -> Any:
    """Return a list of events."""
    return _page(*_events())


def streamed_event() -> Any:
    """Return one server-sent event."""
    event = _events()[0]
    return {"id": event["id"], "data": msgspec.json.encode(event).decode()}


def model() -> Any:
    """Return a served name."""
    return _plain(
        Model(
            id="tickets",
            created=1782000005,
            owned_by="support",
            labels=["billing", "bug"],
            mode="single_label",
            version=1,
            versions=[1],
            job_id=JOB_ID,
            backbone="all-MiniLM-L6-v2",
            precision="int8",
            result=RESULT,
        )
    )


def model_page() -> Any:
    """Return the list of served names, which has no cursors."""
    return _plain(Page(data=[model()]))


def _prediction(**given: Any) -> Prediction:
    return Prediction(
        model="tickets",
        version=1,
        label="billing",
        confidence=0.93,
        mode="single_label",
        classes=[ClassScore("billing", 0.93, True), ClassScore("bug", 0.07, False)],
        all_scores=[0.93, 0.07],
        scores={"billing": 0.93, "bug": 0.07},
        labels=["billing", "bug"],
        in_domain=0.62,
        inference_time_ms=2.4,
        **given,
    )


def prediction() -> Any:
    """Return the answer of one model about one text."""
    return _plain(_prediction())


def predictions() -> Any:
    """Return the answers of two models, of which the second selects none of its labels."""
    none = Prediction(
        model="topics",
        version=1,
        label=None,
        confidence=None,
        mode="multi_label",
        classes=[ClassScore("billing", 0.31, False), ClassScore("bug", 0.12, False)],
        all_scores=[0.31, 0.12],
        scores={"billing": 0.31, "bug": 0.12},
        labels=["billing", "bug"],
        in_domain=0.01,
        inference_time_ms=2.4,
    )
    return _plain(Predictions(predictions=[_prediction(), none], inference_time_ms=2.4))


def batch_results() -> Any:
    """Return the answer to a batch of which one row cannot be classified."""
    error = {"message": "The text is empty", "type": "invalid_request_error", "param": "text", "code": None}
    results = [BatchResult(id="a", predictions=[_prediction()]), BatchResult(id="c", error=error)]
    return _plain(BatchResults(results=results, inference_time_ms=2.4))


def _page(*objects: Any) -> Any:
    return _plain(Page(data=list(objects), first_id=objects[0]["id"], last_id=objects[-1]["id"]))

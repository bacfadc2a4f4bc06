"""Shows that a job's page is whole, loads nothing, and runs nothing that a user has written, whatever its status."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from reflexd import report_page

VOID = {"meta", "br"}
EVIL = "<script>alert(1)</script>\"'&"
JOB: dict[str, Any] = {
    "id": "ftjob-1", "suffix": None, "status": "queued", "paused": False, "labels": [], "mode": "single_label",
    "base_model": None, "base_model_version": None, "trained_examples": 0, "trained_tokens": None, "seed": 7,
    "source": "training_data", "result": None, "error": None, "created_at": 1_782_000_000, "finished_at": None,
}  # fmt: skip


class Checked(HTMLParser):
    """Holds that every element is closed in its place, and collects names, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.given: list[tuple[str, str | None]] = []
        self.said = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.given += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.given += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def check(page: str) -> Checked:
    found = Checked(page)
    assert not found.names & {"script", "link", "img", "iframe", "object", "a"}
    assert not {name for name, _ in found.given} & {"src", "href", "onload", "onclick"}
    assert "url(" not in page
    assert "prefers-color-scheme:dark" in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)
    return found


def result(labels: list[str], **more: Any) -> dict[str, Any]:
    per_label = {label: {"precision": 0.5, "recall": 0.25, "f1_score": 0.333, "n": 4} for label in labels}
    pairs = [{"truth": labels[0], "predicted": labels[1], "n": 3}]
    matrix = [[3] * len(labels) for _ in labels] if len(labels) <= 30 else None
    return {
        "accuracy": 0.75, "f1_score": 0.7, "n": 80, "method": "5-fold cross-validation", "interval": [0.64, 0.83],
        "baseline": {"majority": 0.5, "tfidf": {"accuracy": 0.6, "f1_score": 0.55}}, "calibration": "temperature",
        "ece": 0.031, "reliability": [{"confidence": 0.4, "accuracy": 0.5, "n": 40}], "per_label": per_label,
        "per_label_left_out": 0, "confusion": {"pairs": pairs, "pairs_left_out": 2, "matrix": matrix},
        "warnings": [{"code": "c", "message": f"Look at {labels[0]}", "labels": labels, "rows": [17, 4]}],
        **more,
    }  # fmt: skip


def event(n: int, message: str, level: str = "info", kind: str = "message", **data: Any) -> dict[str, Any]:
    return {"n": n, "created_at": 1_782_000_000 + n, "level": level, "type": kind, "message": message, "data": data}


def test_a_job_that_succeeded_shows_its_score_errors_plots_and_warnings() -> None:
    labels = [EVIL, "bug", "question"]
    job = JOB | {
        "status": "succeeded", "suffix": EVIL, "labels": labels, "trained_examples": 90, "trained_tokens": 700,
        "finished_at": 1_782_000_005, "result": result(labels), "base_model": EVIL, "base_model_version": 2,
    }  # fmt: skip
    events = [
        event(1, "Job queued"),
        event(2, f"Look at {EVIL}", "warn"),
        event(3, "Early score: held-out accuracy 0.750", early_accuracy=0.75),
        event(4, "Step 2", kind="metrics", step=2, train_loss=0.9),
        event(5, "Step 6", kind="metrics", step=6, train_loss=0.4),
    ]
    manifest = {
        "backbone": {"name": "MiniLM", "precision": "int8", "width": 384}, "packages": {"torch": "2"}, "seed": 7,
        "calibration": {"method": "temperature", "rows": 80}, "data_sha256": "ab", "lineage": {"base": EVIL},
        "in_domain": {"method": "euclidean", "rows": 90},
    }  # fmt: skip
    page = report_page.render(job, events, manifest)
    found = check(page)
    assert page.count("<svg") == 4
    for said in (
        "0.750",
        "0.640 to 0.830",
        "80 held-out rows",
        "5-fold",
        "17, 4",
        "MiniLM",
        "0.031",
        "version 2",
        "3 s",
    ):
        assert said in found.said, said
    assert found.said.count(f"Look at {EVIL}") == 2, "once among the warnings, once among the events"


def test_many_labels_show_their_worst_pairs_and_several_labels_their_f1() -> None:
    labels = [f"label {number}" for number in range(31)]
    page = report_page.render(JOB | {"status": "succeeded", "labels": labels, "result": result(labels)}, [])
    assert "2 rarer pairs" in check(page).said
    several = result(["a", "b"], accuracy_of="exact label sets", micro_f1=0.7)
    del several["confusion"]
    job = JOB | {"status": "succeeded", "mode": "multi_label", "labels": ["a", "b"], "result": several}
    assert "macro-F1 on 80 held-out rows" in check(report_page.render(job, [])).said


@pytest.mark.parametrize("status", ["queued", "running", "prepared", "cancelled", "failed"])
def test_a_job_without_a_score_says_what_is_known(status: str) -> None:
    told = {"code": "x", "message": f"The row {EVIL} is bad", "param": "training_data[3]"}
    error = told if status == "failed" else None
    events = [event(1, "Job queued"), event(2, EVIL, "warn")]
    page = report_page.render(JOB | {"status": status, "error": error}, events)
    found = check(page)
    assert status in found.said
    assert ("training_data[3]" if error else "There is no score") in found.said


def test_a_job_of_which_no_row_could_be_scored() -> None:
    none = {"accuracy": None, "f1_score": None, "n": 0, "method": f"none: {EVIL}", "baseline": {"majority": 0.5}}
    job = JOB | {"status": "succeeded", "labels": ["a", "b"], "result": none}
    assert f"none: {EVIL}" in check(report_page.render(job, [])).said

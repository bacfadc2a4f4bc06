"""Shows that a job's result says what an honest score needs, and that `jobs report` makes a page of any job."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from tests import jobs
from tests.daemons import Daemon, reflexd
from tests.rows import TICKETS, endless, made_up


def test_a_result_holds_its_errors_baselines_and_warnings(client: openai.OpenAI) -> None:
    rows = [*made_up(60), {"text": made_up(1)[0]["text"].upper(), "label": "dog"}]
    job = jobs.train(client, rows, "animals")
    result = job.model_extra["result"]
    assert result["n"] == 61
    assert sum(map(sum, result["confusion"]["matrix"])) == 61
    assert 0 <= result["ece"] <= 1
    assert result["baseline"]["tfidf"]["accuracy"] > 0.8, "one word decides"
    assert sum(bin_["n"] for bin_ in result["reliability"]) == 61
    (conflict,) = (warning for warning in result["warnings"] if warning["code"] == "conflicting_labels")
    assert (conflict["rows"], set(conflict["labels"])) == ([0, 60], {"cat", "dog"})
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
    assert conflict["message"] in [event.message for event in events if event.level == "warn"]
    shown = client.models.retrieve("animals").model_extra["result"]
    assert shown["accuracy"] == result["accuracy"]
    assert not {"per_label", "confusion", "warnings"} & set(shown), "the list of models stays short"


def test_a_page_is_made_of_jobs_in_any_status(daemon: Daemon, client: openai.OpenAI, tmp_path: Path) -> None:
    done, busy = jobs.train(client, TICKETS, "tickets"), jobs.create(client, endless(), "busy")
    page = daemon.cli("jobs", "report", done.id)
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    for said in (done.id, "all-MiniLM-L6-v2", "billing", "training loss", "Job succeeded"):
        assert said in page
    assert daemon.cli("jobs", "report", done.id, "--out", tmp_path / "page.html") == ""
    assert (tmp_path / "page.html").read_text() == page
    assert "There is no score" in daemon.cli("jobs", "report", busy.id)
    client.fine_tuning.jobs.cancel(busy.id)
    assert "cancelled" in daemon.cli("jobs", "report", busy.id)


@pytest.mark.parametrize(
    ("words", "said"), [(("ftjob-nobody",), "ftjob-nobody"), (("{id}", "--out", "/nonexistent/x.html"), "/nonexistent")]
)
def test_what_cannot_be_made_is_one_sentence(
    daemon: Daemon, client: openai.OpenAI, words: tuple[str, ...], said: str
) -> None:
    job = jobs.create(client, TICKETS, "any")
    given = [word.format(id=job.id) for word in words]
    failed = reflexd("jobs", "report", *given, "--data-dir", daemon.data_dir)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert len(failed.stderr.splitlines()) == 1
    assert said in failed.stderr

"""Shows that events can be followed live: in order, by many at once, resumed without a gap, ended by what ends them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests import jobs
from tests.daemons import Daemon, wait_for
from tests.integration.refusals import check_error
from tests.rows import TICKETS, endless, made_up

PATH = "/v1/fine_tuning/jobs/{}/events"


class Stream:
    """One open stream, read frame by frame."""

    def __init__(
        self, daemon: Daemon, key: str, job_id: str, after: str | None = None, last: str | None = None
    ) -> None:
        self.http = daemon.http(key)
        query = {"stream": "true"} | ({"after": after} if after else {})
        headers = {"last-event-id": last} if last else {}
        request = self.http.build_request("GET", PATH.format(job_id), params=query, headers=headers)
        self.answer = self.http.send(request, stream=True)
        self.lines = self.answer.iter_lines()

    def __enter__(self) -> Stream:
        assert self.answer.status_code == 200, self.answer.read()
        assert self.answer.headers["content-type"].startswith("text/event-stream")
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()
        self.http.close()

    def frames(self) -> Iterator[dict[str, str]]:
        """Yield each frame's fields; a comment is under the empty name."""
        frame: dict[str, str] = {}
        for line in self.lines:
            if not line:
                yield frame
                frame = {}
            else:
                name, _, value = line.partition(":")
                frame[name] = value.removeprefix(" ")

    def data(self) -> list[str]:
        """Return the data of every frame to the end of the stream."""
        return [frame["data"] for frame in self.frames() if "data" in frame]


def listed(client: openai.OpenAI, job_id: str) -> list[str]:
    return [event.id for event in client.fine_tuning.jobs.list_events(job_id, limit=100)]


def ids(data: list[str]) -> list[str]:
    return [json.loads(one)["id"] for one in data if one != "[DONE]"]


def test_a_stream_tells_what_the_list_tells_and_then_done(daemon: Daemon, key: str, client: openai.OpenAI) -> None:
    job = jobs.create(client, TICKETS, "streamed")
    with Stream(daemon, key, job.id) as stream:
        frames = list(stream.frames())
    assert frames[-1] == {"data": "[DONE]"}
    events = [json.loads(frame["data"]) for frame in frames[:-1]]
    assert [frame["id"] for frame in frames[:-1]] == [event["id"] for event in events] == listed(client, job.id)
    assert events == [e.to_dict() for e in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert [e["message"].split(":")[0] for e in (events[0], events[-1])] == ["Job queued", "Job succeeded"]
    assert sum(event["message"].startswith(("Job succeeded", "Job failed")) for event in events) == 1


def test_50_streams_of_one_job_see_the_same_events_in_order(daemon: Daemon, key: str, client: openai.OpenAI) -> None:
    job = jobs.create(client, made_up(600), "watched")
    opened = threading.Barrier(50)

    def follow(_: int) -> list[str]:
        with Stream(daemon, key, job.id) as stream:
            opened.wait(60)
            return stream.data()

    with ThreadPoolExecutor(50) as pool:
        seen = list(pool.map(follow, range(50)))
    assert seen[0][-1] == "[DONE]"
    assert ids(seen[0]) == listed(client, job.id)
    assert all(data == seen[0] for data in seen)


def test_a_stream_cut_and_resumed_at_every_event_misses_none(daemon: Daemon, key: str, client: openai.OpenAI) -> None:
    job = jobs.create(client, made_up(300), "cut")
    found: list[str] = []
    done = False
    while not done:  # one frame a connection
        with Stream(daemon, key, job.id, last=found[-1] if found else None) as stream:
            frame = next(frame for frame in stream.frames() if "data" in frame)
        done = frame["data"] == "[DONE]"
        if not done:
            found.append(frame["id"])
    assert found == listed(client, job.id)


def test_last_event_id_counts_more_than_after(daemon: Daemon, key: str, client: openai.OpenAI) -> None:
    job = jobs.train(client, TICKETS, "resumed")
    all_ids = listed(client, job.id)
    with Stream(daemon, key, job.id, after=all_ids[1]) as stream:
        assert ids(stream.data()) == all_ids[2:]
    with Stream(daemon, key, job.id, after=all_ids[1], last=all_ids[3]) as stream:
        assert ids(stream.data()) == all_ids[4:]
    with Stream(daemon, key, job.id, last=all_ids[-1]) as stream:
        assert stream.data() == ["[DONE]"]


def test_an_id_of_no_event_is_refused(daemon: Daemon, key: str, client: openai.OpenAI) -> None:
    job = jobs.train(client, TICKETS, "refused")
    with daemon.http(key) as http:
        for name, headers, query in (
            ("Last-Event-ID", {"last-event-id": "5"}, {}),
            ("after", {}, {"after": "ftevent-other-1"}),
        ):
            answer = http.get(PATH.format(job.id), params={"stream": "true", **query}, headers=headers)
            check_error(daemon, answer, 400, None, name)
        answer = http.get(PATH.format("ftjob-unknown"), params={"stream": "true"})
        check_error(daemon, answer, 404, "job_not_found", None)


def test_without_the_query_it_is_a_page_whatever_is_accepted(daemon: Daemon, key: str, client: openai.OpenAI) -> None:
    job = jobs.train(client, TICKETS, "page")
    with daemon.http(key) as http:
        answer = http.get(PATH.format(job.id), headers={"accept": "text/event-stream"})
    assert answer.json()["object"] == "list"


def test_cancelling_and_deleting_end_a_stream(daemon: Daemon, key: str, client: openai.OpenAI) -> None:
    cancelled, deleted = (jobs.create(client, endless(), name) for name in ("ends", "vanishes"))
    with Stream(daemon, key, cancelled.id) as first, Stream(daemon, key, deleted.id) as second:
        client.fine_tuning.jobs.cancel(cancelled.id)
        jobs.delete(client, deleted.id)
        *events, done = first.data()
        assert json.loads(events[-1])["message"] == "Job cancelled"
        assert done == "[DONE]"
        assert json.loads(second.data()[-1])["error"]["code"] == "job_not_found"


def test_a_revoked_key_ends_its_streams_and_no_others(daemon: Daemon) -> None:
    first = daemon.create_key("watcher-1", "--tenant", "watched")
    second = daemon.create_key("watcher-2", "--tenant", "watched")
    with daemon.openai(second) as client:
        job = jobs.create(client, endless(), "long")
        with Stream(daemon, first, job.id) as ends, Stream(daemon, second, job.id) as goes_on:
            daemon.cli("keys", "revoke", "watcher-1")
            assert json.loads(ends.data()[-1])["error"]["code"] == "invalid_api_key"
            client.fine_tuning.jobs.cancel(job.id)
            assert goes_on.data()[-1] == "[DONE]"
        jobs.delete(client, job.id)


def test_streams_are_bounded_for_each_key(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(REFLEXD_LIMITS__STREAMS_PER_KEY="2", REFLEXD_LIMITS__STREAMS="3", REFLEXD_TRAINING__HOLD="1")
    keys = [daemon.create_key(f"k{number}", "--tenant", "t") for number in range(3)]
    with daemon.openai(keys[0]) as client:
        job = jobs.create(client, TICKETS)

    def refused(key: str) -> bool:
        with daemon.http(key) as http, http.stream("GET", PATH.format(job.id), params={"stream": "true"}) as answer:
            assert answer.status_code in (200, 429)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) > 0
            return bool(answer.status_code == 429)

    def begun(stream: Stream) -> None:
        assert "id" in next(stream.frames())

    with Stream(daemon, keys[0], job.id) as one, Stream(daemon, keys[0], job.id) as two:
        begun(one)
        begun(two)
        assert refused(keys[0])
        with Stream(daemon, keys[1], job.id) as three:
            begun(three)
            assert refused(keys[2]), "three are open in all"
    wait_for(lambda: not refused(keys[0]), "closed streams make room")


def test_a_stopping_daemon_lets_its_streams_end(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(REFLEXD_TRAINING__HOLD="1")
    with daemon.openai() as client:
        job = jobs.create(client, TICKETS)
    with Stream(daemon, daemon.admin_key, job.id) as stream:
        frames = stream.frames()
        assert json.loads(next(frames)["data"])["message"] == "Job queued"
        daemon.signal(15)
        assert list(frames) == [], "it ends, and without [DONE], so that the client comes back"
    assert daemon.ended(20) == 0


@pytest.mark.parametrize("value", ["false", "0"])
def test_stream_false_is_a_page(daemon: Daemon, key: str, client: openai.OpenAI, value: str) -> None:
    job = jobs.create(client, TICKETS)
    with daemon.http(key) as http:
        assert http.get(PATH.format(job.id), params={"stream": value}).json()["object"] == "list"

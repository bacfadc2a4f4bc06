"""Shows that a real daemon applies lazy edits or refuses them, over the official SDK in strict mode, whatever happens."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.daemons import Daemon, kill_process, processes, running, wait_for
from tests.integration.refusals import check_error

WORKER = "reflexd.engine.apply.worker"
PATH = "/v1/chat/completions"
FILE = """\
import os


def first(value):
    total = value + 1
    return total


def second(value):
    total = value * 2
    return total


def third(value):
    return first(value) + second(value)
"""
UPDATE = """\
# ... existing code ...

def second(value):
    total = value * 3
    return total

# ... existing code ...
"""
MERGED = FILE.replace("value * 2", "value * 3")
TWICE = "def a():\n    x = 1\n    return x\n\n\ndef b():\n    x = 1\n    return x\n"
DOUBTFUL = "# ... existing code ...\n    x = 1\n    y = 2\n    return x\n# ... existing code ...\n"
"""Fits both functions of TWICE."""
SLOW = "\n".join(f"value_{number} = {number}" for number in range(2000)) + "\n"
"""Long enough that its merge is met under way: it is read by a process that stands still."""


def prompt(code: str, update: str, instruction: str = "", between: str = "\n") -> str:
    said = f"<instruction>{instruction}</instruction>\n" if instruction else ""
    return f"{said}<code>{code}</code>{between}<update>{update}</update>"


def ask(client: openai.OpenAI, content: Any, model: str = "morph-v3-fast", **more: Any) -> ChatCompletion:
    found: ChatCompletion = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], **more
    )
    return found


def applied(client: openai.OpenAI, code: str, update: str, model: str = "morph-v3-fast") -> str:
    content = ask(client, prompt(code, update), model).choices[0].message.content
    assert content is not None
    return content


def verdict(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.model_extra["reflexd"]
    return found


def refused(client: openai.OpenAI, code: str, update: str, model: str = "morph-v3-fast") -> dict[str, Any]:
    """Return the error object of a request that must be refused."""
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        ask(client, prompt(code, update), model)
    body = caught.value.body
    assert isinstance(body, dict)
    assert (caught.value.code, caught.value.type) == ("apply_refused", "invalid_request_error")
    return body


def workers(daemon: Daemon) -> list[int]:
    return [pid for pid, parent in processes(WORKER) if parent == daemon.pid]


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


# --- what is answered -----------------------------------------------------------------------------------------------


def test_both_forms_are_answered_as_openai_answers(client: openai.OpenAI) -> None:
    for instruction in ("", "I triple the value"):
        answer = ask(client, prompt(FILE, UPDATE, instruction))
        choice = answer.choices[0]
        assert (choice.message.content, choice.message.role, choice.finish_reason) == (MERGED, "assistant", "stop")
        assert (answer.object, answer.model) == ("chat.completion", "morph-v3-fast")
        assert answer.id.startswith("chatcmpl-")
        assert answer.usage is not None
        asked = len(prompt(FILE, UPDATE, instruction))
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (-(-asked // 4), -(-len(MERGED) // 4))
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        said = verdict(answer)
        assert said["engine"] == "deterministic"
        assert 0 < said["confidence"] <= 1
        assert said["changed"] == [[10, 10]]


def test_every_model_is_the_engine_where_no_model_is_configured(client: openai.OpenAI) -> None:
    for model in ("morph-v3-fast", "morph-v3-large", "auto"):
        answer = ask(client, prompt(FILE, UPDATE), model)
        assert (answer.model, answer.choices[0].message.content) == (model, MERGED)
        assert verdict(answer)["engine"] == "deterministic"
        assert refused(client, TWICE, DOUBTFUL, model)["reflexd"]["reason"]


def test_parts_earlier_turns_and_what_else_clients_send(client: openai.OpenAI) -> None:
    text = prompt(FILE, UPDATE)
    at = text.index("</code>")
    parts = [{"type": "text", "text": text[:at]}, {"type": "text", "text": text[at:]}]
    assert ask(client, parts).choices[0].message.content == MERGED
    turns: Any = [
        {"role": "system", "content": "You merge files"},
        {"role": "user", "content": prompt("x = 1\n", "x = 2\n")},
        {"role": "assistant", "content": None},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "Wait"},
    ]
    answer = client.chat.completions.create(
        model="auto", messages=turns, max_tokens=5, temperature=0, response_format={"type": "text"}, user="me"
    )
    assert answer.choices[0].message.content == MERGED


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI) -> None:
    long = "\n".join(f"name_{number} = {number}" for number in range(3000)) + "\n"
    update = "# ... existing code ...\nname_1499 = 1499\nname_1500 = 0\nname_1501 = 1501\n# ... existing code ...\n"
    expected = long.replace("name_1500 = 1500", "name_1500 = 0")
    for with_usage in (False, True):
        more: Any = {"stream_options": {"include_usage": True}} if with_usage else {}
        chunks = list(ask(client, prompt(long, update), stream=True, **more))  # type: ignore[call-overload]
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(pieces) == expected
        assert len(pieces) > 4, "a long file comes in several pieces"
        assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[0].model_extra["reflexd"]["changed"] == [[1501, 1501]]
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-2:] == [None, "stop"]
        assert bool(chunks[-1].usage) == with_usage
        assert bool(chunks[-1].choices) != with_usage


def test_a_stream_ends_as_openai_s_do(daemon: Daemon) -> None:
    body = {
        "model": "morph-v3-fast",
        "stream": True,
        "messages": [{"role": "user", "content": prompt(FILE, UPDATE)}],
    }
    with daemon.http() as http:
        answer = http.post(PATH, json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") and "\n" not in event for event in events[:-1])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.removesuffix("\n"),
        lambda text: text + "\n\n",
        lambda text: "\n" + text,
        lambda text: "\n\n" + text + "\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\r\n" + text.replace("\n", "\r\n").removesuffix("\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "\n\ufeff" + text.removesuffix("\n"),
        lambda text: text.replace("    ", "\t"),
        lambda text: text.replace("return total\n", "return total\r\n"),
    ],
    ids=(
        "plain",
        "no-end",
        "more-ends",
        "begins-empty",
        "both",
        "crlf",
        "crlf-begins",
        "bom",
        "bom-2",
        "tabs",
        "mixed",
    ),
)
def test_ends_of_lines_and_of_the_file_stay(client: openai.OpenAI, change: Callable[[str], str]) -> None:
    update = change("").replace("\ufeff", "").strip("\r\n") + (
        UPDATE.replace("    ", "\t") if "\t" in change(FILE) else UPDATE
    )
    assert applied(client, change(FILE), update) == change(MERGED)
    assert applied(client, change(FILE), "\n" + update + "\n\n") == change(MERGED)


def test_an_update_that_is_the_file_changes_nothing(client: openai.OpenAI) -> None:
    marked = FILE + "# ... existing code ...\n"
    for code, update in ((FILE, FILE), (FILE, "\n" + FILE.strip()), (marked, marked), ("\n" + FILE, FILE)):
        answer = ask(client, prompt(code, update))
        assert answer.choices[0].message.content == code
        assert verdict(answer) == {"engine": "deterministic", "confidence": 1.0, "changed": []}


def test_lines_are_counted_as_they_stand_between_the_tags(client: openai.OpenAI) -> None:
    answer = ask(client, prompt(f"\n{FILE}\n", f"\n{UPDATE}\n"))
    content = answer.choices[0].message.content
    assert content == f"\n{MERGED}\n"
    ((first, last),) = verdict(answer)["changed"]
    assert content.split("\n")[first - 1 : last] == ["    total = value * 3"]


def test_a_large_file_passes_whole(client: openai.OpenAI) -> None:
    large = "".join(f"setting_{number} = 'value {number} é'\n" for number in range(60_000))
    update = "# ... existing code ...\nsetting_9 = 'value 9 é'\nsetting_10 = None\nsetting_11 = 'value 11 é'\n# ... existing code ...\n"
    assert applied(client, large, update) == large.replace("'value 10 é'", "None")


# --- tags -----------------------------------------------------------------------------------------------------------


def test_tags_in_the_file_are_the_file_s(client: openai.OpenAI) -> None:
    def page(value: str) -> str:
        return f"<p>\n<code>one</code>\n</code>\n<b>{value}</b>\n<i>end</i>\n</p>\n"

    update = "<!-- ... existing code ... -->\n</code>\n<b>new</b>\n<i>end</i>\n</p>\n"
    assert applied(client, page("old"), update) == page("new")
    assert ask(client, prompt(FILE, UPDATE, "Use <code>, and </code><update> too")).choices[0].message.content == MERGED


def test_a_file_about_this_format_is_told_from_the_prompt(client: openai.OpenAI) -> None:
    def source(value: str) -> str:
        return f'HEAD = 1\nSHAPE = "<code>a</code>\\n<update>b</update>"\nPLAIN = "<code>a</code><update>b</update>"\nLIMIT = {value}\n'

    update = 'PLAIN = "<code>a</code><update>b</update>"\nLIMIT = 2\n'
    whole = ask(client, prompt(source("1"), "# ... existing code ...\n" + update))
    assert whole.choices[0].message.content == source("2")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Say hello", "<code>"),
        ("", "<code>"),
        (f"<code>{FILE}</code>", "There is no <update>"),
        (f"<update>{UPDATE}</update>", "<code>"),
        (f"<code>{FILE}<update>{UPDATE}</update>", "There is no </code>"),
        (f"<code>{FILE}</code><update>{UPDATE}", "There is no </update>"),
        (f"{FILE}</code><update>{UPDATE}</update>", "<code>"),
        (f"<update>{UPDATE}</update><code>{FILE}</code>", "<code>"),
        (f"<code>{FILE}</code> and <update>{UPDATE}</update>", "does not follow"),
        (f"<instruction>x<code>{FILE}</code><update>{UPDATE}</update>", "</instruction>"),
        ("<code>a</code><update>b</code><update>c</update>", "cannot be known"),
        (f"<code></code><update>{UPDATE}</update>", "empty"),
        (f"<code>\n \n</code><update>{UPDATE}</update>", "empty"),
        (f"<code>a\0b</code><update>{UPDATE}</update>", "binary"),
        (f"<code>{FILE}</code><update>\0</update>", "binary"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(client: openai.OpenAI, content: str, said: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, content)
    assert said in caught.value.message
    assert caught.value.param == "messages"
    if said not in ("empty", "binary"):
        assert "<code>the whole file</code>" in caught.value.message


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"messages": []}, 400, None, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, None, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, None, "messages[0].content"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, 400, None, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            None,
            "messages[0].content[0].type",
        ),
        ({"n": 2}, 400, None, "n"),
        ({"stream": "yes"}, 400, None, "stream"),
        ({"model": "morph-v3-fats"}, 404, "model_not_found", "model"),
        ({"model": "gpt-5"}, 404, "model_not_found", "model"),
    ],
)
def test_a_wrong_request_names_its_field(
    daemon: Daemon, change: dict[str, Any], status: int, code: str | None, param: str
) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": prompt(FILE, UPDATE)}], **change}
    with daemon.http() as http:
        check_error(daemon, http.post(PATH, json=body), status, code, param)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_refusal_names_the_segment_and_the_places(client: openai.OpenAI) -> None:
    error = refused(client, "\n" + TWICE, "\n\n" + DOUBTFUL)
    found = error["reflexd"]
    assert set(found) == {"reason", "line", "candidates"}
    line = ("\n\n" + DOUBTFUL).split("\n")[found["line"] - 1].strip()
    assert line
    assert line in error["message"]
    assert len(found["candidates"]) == 2
    for place in found["candidates"]:
        assert str(place) in error["message"]
        assert 1 <= place <= TWICE.count("\n") + 1


@pytest.mark.parametrize(
    ("update", "reason"),
    [("", "empty_update"), ("# ... existing code ...\n", "only_markers"), ("name: x\nother: y\n", None)],
)
def test_an_update_that_says_nothing_of_the_file_is_refused(
    client: openai.OpenAI, update: str, reason: str | None
) -> None:
    found = refused(client, FILE, update)["reflexd"]
    assert reason in (None, found["reason"])


def test_a_refusal_comes_before_a_stream_begins(daemon: Daemon, client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        ask(client, prompt(TWICE, DOUBTFUL), stream=True)
    assert caught.value.code == "apply_refused"
    assert caught.value.response.headers["content-type"] == "application/json"


def test_a_file_that_is_too_large_is_refused(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(REFLEXD_APPLY__FILE_BYTES="2048")
    with daemon.openai() as client:
        assert applied(client, FILE, UPDATE) == MERGED
        for code, update in (("é" * 1025, "x"), (FILE, "x" * 2049), ("x" * 40_000, "x")):
            with pytest.raises(openai.APIStatusError) as caught:
                ask(client, prompt(code, update))
            assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


# --- processes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone() -> Iterator[Daemon]:
    """A daemon with one apply process, whose merges may take four seconds."""
    with running(REFLEXD_APPLY__WORKERS="1", REFLEXD_APPLY__MERGE_SECONDS="4") as daemon:
        yield daemon


def test_no_process_runs_before_the_first_request(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    assert workers(daemon) == []
    with daemon.openai() as client:
        assert applied(client, FILE, UPDATE) == MERGED
        (pid,) = workers(daemon)
        assert applied(client, FILE, UPDATE) == MERGED
        assert workers(daemon) == [pid], "the warm process is used again"
    daemon.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the apply process has ended with the daemon")


def test_a_merge_that_takes_too_long_is_ended_and_its_process_replaced(alone: Daemon) -> None:
    with alone.openai(max_retries=0) as client:
        assert applied(client, FILE, UPDATE) == MERGED
        (pid,) = workers(alone)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            ask(client, prompt(SLOW, "value_3 = 3\nvalue_4 = 0\nvalue_5 = 5\n# ... existing code ...\n"))
        assert caught.value.code == "apply_timeout"
        assert applied(client, FILE, UPDATE) == MERGED
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the slow process is gone")


def test_a_process_that_is_killed_at_work_costs_nothing(alone: Daemon) -> None:
    with alone.openai(max_retries=0) as client, ThreadPoolExecutor(1) as pool:
        assert applied(client, FILE, UPDATE) == MERGED
        (pid,) = wait_for(lambda: workers(alone), "a process stands by")
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: stopped(pid), "the process stands still")
        asked = pool.submit(applied, client, FILE, UPDATE)
        with pytest.raises(TimeoutError):
            asked.result(0.5)
        kill_process(pid)
        assert asked.result(60) == MERGED
        assert pid not in workers(alone)


def test_processes_that_die_again_and_again_are_told(alone: Daemon) -> None:
    with alone.openai(max_retries=0) as client, ThreadPoolExecutor(1) as pool:
        assert applied(client, FILE, UPDATE) == MERGED
        asked = threading.Event()

        def kill_them_all() -> None:
            while not asked.wait(0.001):
                for pid in workers(alone):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue

        killing = pool.submit(kill_them_all)
        try:
            with pytest.raises(openai.InternalServerError) as caught:
                for _ in range(20):
                    ask(client, prompt(FILE, UPDATE))
            assert (caught.value.status_code, caught.value.code) == (503, "service_unavailable")
        finally:
            asked.set()
            killing.result(30)
        assert applied(client, FILE, UPDATE) == MERGED, "it answers again"


def test_what_is_more_than_the_queue_holds_is_put_off(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(REFLEXD_APPLY__WORKERS="1", REFLEXD_APPLY__QUEUE="3", REFLEXD_APPLY__CONCURRENT_PER_KEY="2")
    key = daemon.create_key("other")
    with daemon.openai(max_retries=0) as client, daemon.openai(key, max_retries=0) as other:
        assert applied(client, FILE, UPDATE) == MERGED
        (pid,) = workers(daemon)
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(applied, client, FILE, UPDATE) for _ in range(2)]
            with pytest.raises(openai.RateLimitError, match="concurrent_per_key"):
                wait_for(lambda: ask_once(client), "one more is refused", 20)
            waiting.append(pool.submit(applied, other, FILE, UPDATE))
            with pytest.raises(openai.RateLimitError, match="Too many updates"):
                wait_for(lambda: ask_once(other), "the queue is full", 20)
            os.kill(pid, signal.SIGCONT)
            assert [each.result(60) for each in waiting] == [MERGED] * 3


def ask_once(client: openai.OpenAI) -> bool:
    """Ask in vain while the one process stands still; raises RateLimitError once nobody may wait any more."""
    try:
        ask(client, prompt(FILE, UPDATE), timeout=1.0)
    except openai.APITimeoutError:
        return False
    return False


def test_many_at_once_are_answered_each_with_its_own_file(client: openai.OpenAI) -> None:
    def one(number: int) -> bool:
        file, merged = (text.replace("total", f"total_{number}") for text in (FILE, MERGED))
        return applied(client, file, UPDATE.replace("total", f"total_{number}")) == merged

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(24)))


def test_a_caller_that_hangs_up_frees_the_process(alone: Daemon) -> None:
    with alone.openai(max_retries=0) as client:
        assert applied(client, FILE, UPDATE) == MERGED
        (pid,) = wait_for(lambda: workers(alone), "a process stands by")
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(openai.APITimeoutError):
            ask(client, prompt(FILE, UPDATE), timeout=0.5)
        wait_for(lambda: pid not in workers(alone), "the process is ended before its time is up")
        assert applied(client, FILE, UPDATE) == MERGED

"""Shows that a model is asked where the engine refuses and not believed blindly, and that chat reaches an LLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.checkpoints import smollm2
from tests.daemons import Daemon, reflexd, running, wait_for
from tests.edits import DOUBTFUL, FILE, MERGED, TWICE, UPDATE, applied, ask, prompt, refused, verdict
from tests.language_models import SECRET, Server
from tests.receivers import Received, Receiver, answering, receiving

SOLVED = TWICE.replace("x = 1\n", "x = 1\n    y = 2\n", 1)


class Model:
    """A server of OpenAI's API on loopback whose answer a test decides."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def says(self, content: str, **more: Any) -> None:
        """Answer every further request with a text, and forget those that have come."""

        def answer(handler: BaseHTTPRequestHandler, _: Received) -> None:
            message = {"role": "assistant", "content": content}
            choice = {"index": 0, "finish_reason": "stop", "message": message, "text": content, **more}
            body = json.dumps({"id": "x", "choices": [choice]}).encode()
            handler.send_response(200)
            handler.send_header("content-length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        self.receiver.received.clear()
        self.receiver.answer = answer

    def fails(self, status: int) -> None:
        self.receiver.received.clear()
        self.receiver.answer = answering(status)

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [json.loads(one.body) for one in self.receiver.received]


@contextmanager
def with_model(**env: str) -> Iterator[tuple[Model, Daemon]]:
    with receiving() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/v1"
        with running(**{name: value.replace("URL", url) for name, value in env.items()}) as daemon:
            yield Model(receiver), daemon


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Model, openai.OpenAI]]:
    given = {"URL": "URL/", "MODEL": "merger", "API_KEY": "the-key"}
    # Offline: a server on this machine is none of the outside.
    with (
        with_model(
            REFLEXD_NETWORK__OFFLINE="true", **{f"REFLEXD_APPLY__{name}": value for name, value in given.items()}
        ) as (model, daemon),
        daemon.openai(max_retries=0) as client,
    ):
        yield model, client


def test_auto_falls_through_only_where_the_engine_refuses(served: tuple[Model, openai.OpenAI]) -> None:
    model, client = served
    model.says(f"Here it is:\n<updated-code>\n{SOLVED}</updated-code>\n")
    assert applied(client, FILE, UPDATE, "auto") == MERGED
    assert model.asked == [], "the engine knows"
    answer = ask(client, prompt(TWICE, DOUBTFUL, "The first one"), "auto")
    assert answer.choices[0].message.content == SOLVED
    assert verdict(answer) == {"engine": "model", "confidence": None, "changed": [[3, 3]]}
    (asked,) = model.asked
    (one,) = model.receiver.received
    assert (one.path, one.headers["authorization"]) == ("/v1/chat/completions", "Bearer the-key")
    assert (asked["model"], asked["temperature"]) == ("merger", 0)
    (message,) = asked["messages"]
    for part in (f"<code>{TWICE}</code>", f"<update>{DOUBTFUL}</update>", "<instruction>The first one</instruction>"):
        assert part in message["content"]
    streamed = ask(client, prompt(TWICE, DOUBTFUL), "auto", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == SOLVED  # type: ignore[attr-defined,misc]


def test_fast_is_the_engine_alone_and_large_asks_first(served: tuple[Model, openai.OpenAI]) -> None:
    model, client = served
    model.says(SOLVED)
    refused(client, TWICE, DOUBTFUL, "morph-v3-fast")
    assert model.asked == []
    model.says(f"```python\n{MERGED}```")
    answer = ask(client, prompt(FILE, UPDATE), "morph-v3-large")
    assert (answer.choices[0].message.content, verdict(answer)["engine"]) == (MERGED, "model")
    for broken in (lambda: model.says("I cannot do that"), lambda: model.fails(500)):
        broken()
        answer = ask(client, prompt(FILE, UPDATE), "morph-v3-large")
        assert (answer.choices[0].message.content, verdict(answer)["engine"]) == (MERGED, "deterministic")
        assert len(model.asked) == 1


@pytest.mark.parametrize(
    "said",
    [
        "",
        "I am sorry",
        SOLVED + "# ... existing code ...\n",
        SOLVED.replace("y = 2", "y = 2\n    z = 3"),
        SOLVED.replace("    y = 2\n", ""),
        SOLVED[: SOLVED.index("def b")],
        SOLVED.replace("def a():", "def a(:"),
        "def b():\n    x = 1\n    y = 2\n    return x\n",
    ],
    ids=("nothing", "words", "marker", "invented", "forgotten", "half", "broken", "cut"),
)
def test_a_model_that_is_wrong_leaves_the_refusal(served: tuple[Model, openai.OpenAI], said: str) -> None:
    model, client = served
    model.says(said)
    known = refused(client, TWICE, DOUBTFUL, "morph-v3-fast")
    found = refused(client, TWICE, DOUBTFUL, "auto")
    assert found == known, "the engine's own words"
    assert len(model.asked) == 1


@pytest.mark.parametrize("name", ["auto", "morph-v3-large"])
def test_an_update_that_says_nothing_is_refused_as_such(served: tuple[Model, openai.OpenAI], name: str) -> None:
    model, client = served
    model.says(FILE)
    assert refused(client, FILE, "\n", name)["reflexd"]["reason"] == "empty_update"
    assert refused(client, FILE, "# ... existing code ...\n", name)["reflexd"]["reason"] == "only_markers"


def test_an_answer_that_was_cut_off_and_a_dead_server_leave_the_refusal(served: tuple[Model, openai.OpenAI]) -> None:
    model, client = served
    model.says(SOLVED, finish_reason="length")
    assert refused(client, TWICE, DOUBTFUL, "auto")["reflexd"]["reason"] == "ambiguous"
    for status in (401, 429, 503):
        model.fails(status)
        assert refused(client, TWICE, DOUBTFUL, "auto")["reflexd"]["reason"] == "ambiguous"
        assert len(model.receiver.received) == 1


def test_the_bytes_of_the_file_stay_whatever_the_model_makes_of_them(served: tuple[Model, openai.OpenAI]) -> None:
    model, client = served
    for change in (
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.removesuffix("\n"),
        lambda text: "\n" + text,
        lambda text: "\ufeff" + text,
    ):
        model.says("\n\n" + SOLVED.rstrip())
        assert applied(client, change(TWICE), DOUBTFUL, "auto") == change(SOLVED)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"URL": "ftp://x/v1", "MODEL": "m"}, "[apply] url"),
        ({"URL": "http://127.0.0.1:1/v1"}, "[apply] model"),
        ({"URL": "http://192.0.2.1/v1", "MODEL": "m"}, "[apply] url"),
    ],
)
def test_a_server_that_cannot_or_may_not_be_asked_stops_the_start(
    tmp_path: Path, env: dict[str, str], said: str
) -> None:
    given = {f"REFLEXD_APPLY__{name}": value for name, value in env.items()}
    done = reflexd("serve", "--data-dir", tmp_path / "d", REFLEXD_NETWORK__OFFLINE="true", **given)
    assert done.returncode == 78
    assert said in done.stderr


# --- the local language model ---------------------------------------------------------------------------------------


def test_an_llm_elsewhere_answers_chat_and_merges_where_it_is_told_to() -> None:
    with (
        with_model(
            REFLEXD_LLM__URL="URL", REFLEXD_LLM__MODEL="big", REFLEXD_LLM__API_KEY="k", REFLEXD_APPLY__USE_LLM="true"
        ) as (model, daemon),
        daemon.openai(max_retries=0) as client,
    ):
        model.says(SOLVED)
        answer = ask(client, prompt(TWICE, DOUBTFUL), "auto")
        assert (answer.choices[0].message.content, verdict(answer)["engine"]) == (SOLVED, "model")
        assert [one.path for one in model.receiver.received] == ["/v1/completions"]
        model.says("Hello")
        turns: Any = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]
        said = client.chat.completions.create(model="gpt-5", messages=turns, temperature=0.5, max_completion_tokens=9)
        assert (said.model, said.choices[0].message.content) == ("big", "Hello")
        assert said.model_extra == {}
        assert model.asked == [{"model": "big", "messages": turns, "temperature": 0.5, "max_tokens": 9}]
        pieces = client.chat.completions.create(model="gpt-5", messages=turns, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == "Hello"
        with pytest.raises(openai.NotFoundError):
            ask(client, "Hi", "morph-v3-fats")
        with pytest.raises(openai.BadRequestError, match="this version of reflexd"):
            ask(client, "Hi", "gpt-5", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
        model.fails(429)
        with pytest.raises(openai.RateLimitError):
            ask(client, "Hi", "gpt-5")
        model.fails(500)
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client, "Hi", "gpt-5")
        assert (caught.value.status_code, caught.value.code) == (503, "service_unavailable")


def test_the_embedded_llm_answers_chat_by_its_own_template(tmp_path: Path) -> None:
    server = Server(smollm2(), tmp_path / "stderr")
    try:
        wait_for(server.is_ready, "the language model is ready")
        given = {"URL": f"http://127.0.0.1:{server.port}/v1", "MODEL": "smol", "API_KEY": SECRET}
        with (
            running(**{f"REFLEXD_LLM__{name}": value for name, value in given.items()}) as daemon,
            daemon.openai(max_retries=0) as client,
        ):
            question = "What is the capital of France? One word."
            answer = ask(client, question, "smol", temperature=0, max_tokens=12)
            assert answer.model == "smol"
            assert "Paris" in (answer.choices[0].message.content or "")
            assert answer.usage is not None
            assert answer.usage.prompt_tokens > 20, "the template's own turns count"
            assert answer.usage.completion_tokens <= 12
            short = ask(client, question, "smol", temperature=0, max_tokens=1)
            assert (short.choices[0].finish_reason, short.model_extra) == ("length", {})
            assert ask(client, question, "smol", temperature=0).choices[0].finish_reason == "stop"
            with pytest.raises(openai.BadRequestError):
                ask(client, "word " * 4000, "smol")
    finally:
        server.process.kill()
        server.process.wait(30)

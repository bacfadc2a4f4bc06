"""Shows that a real daemon applies lazy edits or refuses them, over the official SDK in strict mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonschema_rs
import openai
import pytest

from tests.daemons import Daemon
from tests.edits import DOUBTFUL, FILE, MERGED, PATH, TWICE, UPDATE, applied, ask, prompt, refused, verdict
from tests.integration.refusals import check_error

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
    middle = "setting_9 = 'value 9 é'\nsetting_10 = None\nsetting_11 = 'value 11 é'\n"
    update = f"# ... existing code ...\n{middle}# ... existing code ...\n"
    assert applied(client, large, update) == large.replace("'value 10 é'", "None")


def test_the_published_examples_are_answered_as_published(daemon: Daemon) -> None:
    with daemon.http() as http:
        document = http.get("/openapi.json").json()
        described = document["paths"][PATH]["post"]
        content = described["responses"]["200"]["content"]["application/json"]
        for example in described["requestBody"]["content"]["application/json"]["examples"].values():
            found = http.post(PATH, json={**example["value"], "stream": False}).json()
            jsonschema_rs.validate({**content["schema"], "components": document["components"]}, found)
            for key in ("choices", "model"):
                assert found[key] == content["example"][key]
            assert found["reflexd"]["changed"] == content["example"]["reflexd"]["changed"]


# --- tags -----------------------------------------------------------------------------------------------------------


def test_tags_in_the_file_are_the_file_s(client: openai.OpenAI) -> None:
    def page(value: str) -> str:
        return f"<p>\n<code>one</code>\n<hr></code>\n<b>{value}</b>\n<i>end</i>\n</p>\n"

    update = "<!-- ... existing code ... -->\n<hr></code>\n<b>new</b>\n<i>end</i>\n</p>\n"
    assert applied(client, page("old"), update) == page("new")
    assert ask(client, prompt(FILE, UPDATE, "Use <code>, and </code><update> too")).choices[0].message.content == MERGED


def test_a_file_about_this_format_is_told_from_the_prompt(client: openai.OpenAI) -> None:
    def source(value: str) -> str:
        return f'HEAD = 1\nSHAPE = "<code>a</code><update>b</update>"\nOTHER = 3\nLIMIT = {value}\n'

    update = 'SHAPE = "<code>a</code><update>b</update>"\nOTHER = 3\nLIMIT = 2\n'
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

"""Shows the embedded server on SmolLM2's real weights: OpenAI's SDK over a socket, against transformers on its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch

from reflexd.engine.lifeline import child_environment
from reflexd.engine.llm.embedded import KEY
from tests.checkpoints import copy_of, smollm2
from tests.daemons import DEADLINE, ROOT, free_port, is_alive, new_directory, processes, wait_for
from tests.language_models import CONTEXT, LONGEST, MODULE, SECRET, SLOTS, Bare, Server, spec_of

UNHEARD = "<|unheard-of|>"
"""A token that the tokenizer knows and the model has no weights for: reading it fails."""
HEADER = "Messages of customers to their bank, each about a card payment that was charged twice by mistake:\n- "
PROMPTS = ["The capital of France is", "1, 2, 3, 4,", "Once upon a time there was a fox who lived in", "Dear Sir,\n"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with new_directory() as folder:
        directory = copy_of(smollm2(), folder / "model", "tokenizer.json")
        tokenizer = json.loads((smollm2() / "tokenizer.json").read_bytes())
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        tokenizer["added_tokens"].append({"id": 49152, "content": UNHEARD, **flags})
        (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
        started = Server(directory, folder / "stderr")
        try:
            wait_for(started.is_ready, "the language model is ready")
            yield started
        finally:
            started.process.kill()
            started.process.wait(30)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with server.openai(_strict_response_validation=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def lenient(server: Server) -> Iterator[openai.OpenAI]:
    """For echoes: the null before which OpenAI says no token stands is against the SDK's own types."""
    with server.openai() as opened:
        yield opened


@pytest.fixture(scope="module")
def bare() -> Iterator[Bare]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the server
    yield Bare()
    torch.set_num_threads(threads)


def complete(client: openai.OpenAI, prompt: Any, **wish: Any) -> openai.types.Completion:
    return client.completions.create(model="smol", prompt=prompt, **{"temperature": 0, "max_tokens": 12, **wish})


def test_a_batch_says_greedily_what_transformers_says_one_by_one(client: openai.OpenAI, bare: Bare) -> None:
    alone = [bare.greedy(prompt, 16) for prompt in PROMPTS]
    together = complete(client, PROMPTS, max_tokens=16)
    assert [choice.text for choice in together.choices] == alone
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert {choice.finish_reason for choice in together.choices} <= {"stop", "length"}
    read = sum(len(bare.tokenizer(prompt).input_ids) for prompt in PROMPTS)
    assert together.usage is not None
    assert (together.usage.prompt_tokens, together.usage.total_tokens) == (
        read,
        read + together.usage.completion_tokens,
    )
    # More rows than places, of different lengths, so that rows leave and others join what is under way.
    counts = [3, 17, 9, 16, 1, 12, 7, LONGEST]
    with ThreadPoolExecutor(len(counts)) as pool:
        answers = list(pool.map(lambda at: complete(client, PROMPTS[at % 4], max_tokens=counts[at]), range(8)))
    assert [said.choices[0].text for said in answers] == [bare.greedy(PROMPTS[at % 4], counts[at]) for at in range(8)]


def test_a_seed_says_the_same_alone_and_beside_others(client: openai.OpenAI) -> None:
    def draw(seed: int, top_p: float = 0.9) -> str:
        said = complete(client, HEADER, temperature=0.9, top_p=top_p, seed=seed, max_tokens=10)
        return said.choices[0].text

    alone = [draw(seed) for seed in (1, 2)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, [3, 1, 2, 4]))[1:3] == alone
    assert alone[0] != alone[1]
    assert draw(5, top_p=0.0) == complete(client, HEADER, max_tokens=10).choices[0].text
    assert draw(6, top_p=1.0) == draw(6, top_p=1.0)


def test_an_answer_ends_before_a_stop_string_that_crosses_tokens(client: openai.OpenAI) -> None:
    whole = complete(client, PROMPTS[2], max_tokens=16, logprobs=0).choices[0]
    assert whole.logprobs is not None
    assert whole.logprobs.tokens
    assert "".join(whole.logprobs.tokens) == whole.text
    third = len("".join(whole.logprobs.tokens[:3]))
    stop = whole.text[third - 2 : third + 2]  # the end of one token and the beginning of the next
    cut = complete(client, PROMPTS[2], max_tokens=16, stop=["never said", stop], logprobs=0).choices[0]
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    assert cut.logprobs is not None
    assert cut.logprobs.text_offset
    assert all(offset < len(cut.text) for offset in cut.logprobs.text_offset)


def test_no_half_characters_are_said(client: openai.OpenAI) -> None:
    said = complete(client, ["😀😀😀😀😀😀😀😀", "日本語日本語日本語日本語"], max_tokens=11, logprobs=5)
    for choice in said.choices:
        assert choice.text
        assert "\ufffd" not in choice.text


@pytest.mark.parametrize("count", [0, 1])
def test_an_echoed_prompt_is_scored_as_by_a_bare_forward(lenient: openai.OpenAI, bare: Bare, count: int) -> None:
    ends = ["refund", "I paid once and was charged twice for my breakfast", "why?", "two charges, ünd 😀 one coffee"]
    texts = [HEADER + end for end in ends] + [*PROMPTS, "x", HEADER]
    for _ in range(2):  # the second time behind beginnings that were kept
        scored = complete(lenient, texts, max_tokens=count, echo=True, logprobs=1).choices
        for text, choice in zip(texts, scored, strict=True):
            shown: Any = choice.logprobs
            known, likeliest = bare.scores(text)
            prompt_tokens = len(known) + 1
            assert choice.text.startswith(text)
            assert "".join(shown.tokens[:prompt_tokens]) == text
            assert shown.text_offset == [len("".join(shown.tokens[:at])) for at in range(len(shown.tokens))]
            assert shown.token_logprobs[0] is None
            assert shown.token_logprobs[1:prompt_tokens] == pytest.approx(known, abs=1e-3)
            best = [max(top.values()) for top in shown.top_logprobs[1:prompt_tokens]]
            assert best == pytest.approx(likeliest, abs=1e-3)
            assert len(shown.tokens) == prompt_tokens + count
            assert choice.finish_reason == "length"


def test_a_long_prompt_is_scored_in_pieces(lenient: openai.OpenAI, bare: Bare) -> None:
    text = "".join(f"{number} is followed by " for number in range(110))
    known, likeliest = bare.scores(text)
    assert 512 < len(known) < CONTEXT
    shown: Any = complete(lenient, text, max_tokens=0, echo=True, logprobs=1).choices[0].logprobs
    assert shown.token_logprobs[1:] == pytest.approx(known, abs=1e-3)
    assert [max(top.values()) for top in shown.top_logprobs[1:]] == pytest.approx(likeliest, abs=1e-3)


def test_who_has_no_key_learns_nothing(server: Server, client: openai.OpenAI) -> None:
    assert server.seen <= {503, 200}
    assert [model.id for model in client.models.list()] == ["smol"]
    with server.openai("another-key") as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            complete(stranger, "Hello")
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    # Not even which paths there are, and only on this machine's own address.
    assert httpx2.get(f"http://127.0.0.1:{server.port}/docs").status_code == 401
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    here = [line[1] for line in listening if line[3] == "0A" and line[1].endswith(f":{server.port:04X}")]
    assert here == [f"0100007F:{server.port:04X}"]


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"n": 2}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"50": -100}}, "logit_bias"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"logprobs": 6}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", ""]}, "stop"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"seed": "one"}, "seed"),
    ],
)
def test_what_is_not_done_is_refused_by_name(client: openai.OpenAI, wish: dict[str, Any], field: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        complete(client, **{"prompt": "Hello", **wish})
    assert refused.value.param == field


def test_what_changes_nothing_is_taken(client: openai.OpenAI) -> None:
    harmless = {"n": 1, "best_of": 1, "frequency_penalty": 0, "logit_bias": {}, "stream": False, "user": "me"}
    assert complete(client, "Hello", max_tokens=1, **harmless).choices[0].text
    assert complete(client, "Hello", max_tokens=1, stop=None, logprobs=None, seed=None, top_p=None).choices[0].text


def test_what_does_not_fit_is_refused(server: Server, client: openai.OpenAI) -> None:
    for wish in ({"prompt": "word " * CONTEXT}, {"prompt": "Hello", "max_tokens": CONTEXT}):
        with pytest.raises(openai.BadRequestError, match=f"maximum context length is {CONTEXT} tokens") as refused:
            complete(client, **wish)
        assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="other", prompt="Hello")
    assert unknown.value.code == "model_not_found"
    said = httpx2.post(
        f"http://127.0.0.1:{server.port}/v1/completions", content=b"{", headers={"authorization": f"Bearer {SECRET}"}
    )
    assert said.status_code == 400


def test_a_failure_of_the_model_costs_only_the_row_that_it_was_for(server: Server, client: openai.OpenAI) -> None:
    def ask(prompt: str) -> str:
        try:
            return complete(client, prompt, max_tokens=6).choices[0].text
        except openai.InternalServerError as error:
            return str(error.code)

    prompts = ["One, two,", f"Zanzibar {UNHEARD}", "Three, four,", "Five, six,"]
    expected = [ask(prompt) for prompt in prompts]
    assert expected[1] == "internal_error"
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, prompts)) == expected
    said = server.log.read_text()
    assert "IndexError" in said
    assert "Zanzibar" not in said
    assert HEADER not in said


def test_too_many_are_turned_away_and_who_hangs_up_frees_the_place(server: Server, client: openai.OpenAI) -> None:
    # A thousand tokens a row take minutes: that nobody waits for them is all that lets the next ones through.
    long = {"model": "smol", "prompt": ["Once upon a time"] * (SLOTS * 6), "max_tokens": 1000}
    body = json.dumps(long).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\ncontent-length: {len(body)}\r\n"
    )

    def refused() -> bool:
        try:
            complete(client, "Hello", max_tokens=1)
        except openai.RateLimitError as error:
            return error.code == "rate_limit_exceeded"
        return False

    with socket.create_connection(("127.0.0.1", server.port)) as hanging:
        hanging.sendall(head.encode() + b"\r\n" + body)
        wait_for(refused, "too many wait")

    def answered() -> bool:
        try:
            return bool(complete(client, "Hello", max_tokens=1).choices)
        except openai.RateLimitError:
            return False

    wait_for(answered, "those who hung up have gone")


def test_a_directory_without_a_whole_model_is_named(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, free_port())
    with subprocess.Popen(
        [sys.executable, "-m", MODULE, spec],
        env=child_environment(**{KEY: SECRET}),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(DEADLINE) == 78
    assert said.strip() == f"{tmp_path} has no config.json: it is no model's directory"


PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-m", sys.argv[1], sys.argv[2]], stdin=subprocess.PIPE, start_new_session=True)
time.sleep(600)
"""


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    spec = spec_of(smollm2(), free_port())
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, MODULE, spec], env=child_environment(**{KEY: SECRET}), cwd=ROOT
    )

    def child() -> int:
        return next((pid for pid, of in processes(MODULE) if of == parent.pid), 0)

    pid = wait_for(child, "the server runs")
    wait_for(lambda: b"libtorch" in Path(f"/proc/{pid}/maps").read_bytes(), "it loads")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(30)
    wait_for(lambda: not is_alive(pid), "the server has ended")

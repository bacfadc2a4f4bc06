"""Shows that the serving benchmark asks for what it says, texts of a length at a rate, and counts what it says."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import serving_gpu
from benchmarks.runner import VOID, Options, Side, compare
from benchmarks.serving import PARTS, arguments_of
from benchmarks.serving_instructions import by_part, line
from benchmarks.serving_load import Target
from benchmarks.serving_parts import speed
from benchmarks.serving_texts import _tokenizer, exactly, log_uniform
from reflexd.engine.encoder import Encoder
from tests.unit.serving import port, serving
from tests.unit.tunings import weights

pytestmark = pytest.mark.anyio


@pytest.mark.data
def test_texts_have_exactly_the_tokens_asked_for() -> None:
    for tokens in (8, 64, 65, 256):
        assert [len(_tokenizer().encode(exactly(tokens, seed)).ids) for seed in range(5)] == [tokens] * 5
    sizes = sorted(len(_tokenizer().encode(text).ids) for text in log_uniform(200, 32, 256))
    assert 32 <= sizes[0] < 40
    assert 230 < sizes[-1] <= 256
    assert 80 < sizes[100] < 102, "the middle of the logarithms"


def test_no_part_is_all_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments_of([]).parts == PARTS
    assert arguments_of(["many", "lone", "--rounds", "9"]).parts == ["many", "lone"]
    with pytest.raises(SystemExit):
        arguments_of(["nothing"])
    assert "'nothing' is none of lone, clients" in capsys.readouterr().err


def test_the_bare_side_of_a_gpu_makes_the_vectors_of_the_encoder(full_encoder: Encoder) -> None:
    bare, text = serving_gpu.Bare(weights(), "cpu"), exactly(64)
    assert bare.ids(text) == full_encoder.token_ids(text)
    vector = bare.vector(bare.ids(text))
    exact = full_encoder.forward(full_encoder.token_ids(text))[: len(vector)]
    assert vector @ exact / np.linalg.norm(vector) > 0.999
    assert len(bare(text, 3)) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_nothing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert serving_gpu.main([]) == VOID
    assert "no GPU" in capsys.readouterr().out


class Server:
    """An application that answers the first `good` requests 200 and all others 429."""

    def __init__(self, good: int) -> None:
        self.left = good
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.bodies.append((await receive())["body"])
        status, self.left = (200, self.left - 1) if self.left else (429, 0)
        await asyncio.sleep(0.002)
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})


async def test_each_kind_of_load_sends_every_request_once() -> None:
    app = Server(120)
    async with serving(app) as server:
        target = Target(port(server), "key", "/predict", ["a", "b", "c"])
        assert len(await asyncio.to_thread(target.lone, 6)) == 6
        assert app.bodies == [b"a", b"b", b"c"] * 2
        assert await asyncio.to_thread(target.closed, 4, 30) > 0
        assert len(app.bodies) == 36
        found = await asyncio.to_thread(target.open, 200.0, 1.0, 16, 0)
        assert len(found["answers"]) == 200
        assert found["never"] == 0
        assert sum(status == 200 for status, _ in found["answers"]) == 84
        assert all(took > 0.002 for _, took in found["answers"])
        rush = await asyncio.to_thread(target.at_once, 50)
        assert rush["statuses"] == {"429": 50}
        with pytest.raises(RuntimeError, match="429"):
            await asyncio.to_thread(target.lone, 1)


def test_a_speed_is_the_other_way_round_than_the_time_whichever_side_it_is_compared_to() -> None:
    times = {"slow": 4.0, "quick": 1.0, "reflexd": 2.0}
    sides = [Side(name, lambda value=value: value) for name, value in times.items()]  # type: ignore[misc]
    report = compare("t", sides, Options(rounds=3, warmups=0))
    assert speed(report, "slow").median == 2.0
    assert speed(report, "quick").median == 0.5


DUMP = """\
events: Ir

ob=/lib/libpython3.11.so.1.0
fl=???
fn=_PyEval_EvalFrameDefault
0 70
cob=/site-packages/onnxruntime/capi/onnxruntime_pybind11_state.so
cfi=???
cfn=run
calls=2 0
0 900
0 5

ob=/site-packages/onnxruntime/capi/onnxruntime_pybind11_state.so
fl=???
fn=run
0 800
cob=/lib/libc.so.6
cfi=???
cfn=memcpy
calls=1 0
0 100

ob=/lib/libc.so.6
fl=???
fn=memcpy
0 100

ob=/site-packages/msgspec/_core.so
fl=???
fn=decode
0 3

totals: 978
"""


def test_instructions_count_once_where_their_code_lies() -> None:
    assert by_part(DUMP) == {"ONNX Runtime": 800, "interpreter": 75, "libc": 100, "all else": 3}


def test_a_row_of_instructions_tells_the_means_and_how_far_apart_the_runs_are() -> None:
    runs = [(10e6, 11e6), (12e6, 13.5e6)]
    assert line("in all", runs) == ["in all", "11.000", "12.250", "1.250", "0.500"]

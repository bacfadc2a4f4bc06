"""Shows how one call classifies many texts: each read once, errors in place, long ones in windows, nobody starved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from reflexd.engine.backbone import STACK
from reflexd.engine.encoder import PROBE_CHARS, Encoder, Vector
from reflexd.engine.predictor import MAX_CHUNKED_TOKENS, Predictor
from reflexd.errors import ContextLengthExceeded, InvalidRequest, ReflexError
from reflexd.registry import artifacts
from reflexd.registry.artifacts import BackboneRef, Calibration, DamagedArtifact, Head, Manifest
from reflexd.schemas.reflex import Mode
from tests.unit.asking import ask, outcome_of, predicting, said
from tests.unit.vectors import vector_of

pytestmark = pytest.mark.anyio
LONG = "The rocket engine failed during launch. " * 300
HIDDEN = "word " * 40_000 + "rocket " * 40_000


def publish(folder: Path, name: str, head: Head, encoder: Encoder, mode: Mode = "single_label") -> None:
    about, labels = encoder.description, [f"label {number}" for number in range(len(head.bias))]
    manifest = Manifest(
        stack=STACK,
        labels=labels,
        mode=mode,
        backbone=BackboneRef(name=about.name, fingerprint=about.fingerprint, precision="int8", width=about.width),
        calibration=Calibration(method="temperature", temperature=0.5, rows=60),
        thresholds=[0.5, 0.9, 0.1] if mode == "multi_label" else [],
        data_sha256="",
        examples=10,
        seed=1,
        packages={},
        created_at=0,
    )
    artifacts.publish(folder, name, head, manifest)


@pytest.fixture
async def predictor(encoder: Encoder, tmp_path: Path) -> AsyncIterator[Predictor]:
    rocket, refund, day = (vector_of(encoder, text) for text in ("a rocket", "a refund", "a sunny day"))
    publish(tmp_path, "topic", Head(np.stack([rocket, refund, day]), np.zeros(3, np.float32)), encoder)
    publish(tmp_path, "refund", Head(np.stack([refund, -refund]), np.zeros(2, np.float32)), encoder)
    several = Head(np.stack([rocket, refund, day]), np.full(3, -0.3, np.float32))
    publish(tmp_path, "several", several, encoder, "multi_label")
    with predicting(encoder, tmp_path) as made:
        yield made


class Readings:
    """The encoder's real forward, with a record of what it was given."""

    def __init__(self, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: list[tuple[int, ...]] = []
        self.at_once = self.most_at_once = 0
        forward = encoder.forward

        def recorded(ids: Sequence[int]) -> Vector:
            self.ids.append(tuple(ids))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                return forward(ids)
            finally:
                self.at_once -= 1

        monkeypatch.setattr(encoder, "forward", recorded)


async def test_one_text_and_many_models(predictor: Predictor, encoder: Encoder) -> None:
    (answer,) = await ask(predictor, [("A rocket flies", ["topic", "refund", "several"])])
    topic, refund, several = said(answer)
    vector = vector_of(encoder, "A rocket flies").astype(np.float64)
    exact = np.exp(np.array([vector_of(encoder, t) @ vector for t in ("a rocket", "a refund", "a sunny day")]) / 0.5)
    assert topic.probabilities == pytest.approx(exact / exact.sum(), abs=1e-5)
    assert topic.selected == [True, False, False]
    assert sum(refund.selected) == 1
    assert several.probabilities == pytest.approx(1 / (1 + np.exp(0.3 / 0.5) / exact), abs=1e-5)
    assert several.selected == [p >= t for p, t in zip(several.probabilities, [0.5, 0.9, 0.1], strict=True)]
    assert several.selected[0]
    assert several.selected[2]
    assert (topic.best, several.best, topic.windows) == (0, 0, 1)
    outcome = await outcome_of(predictor, [("A rocket flies", ["topic"])])
    assert 0 <= outcome.waited < 60
    assert 0 < outcome.computed < 60


async def test_exactly_one_label_is_selected_where_two_are_equal(
    predictor: Predictor, encoder: Encoder, tmp_path: Path
) -> None:
    publish(tmp_path, "even", Head(np.zeros((3, 384), np.float32), np.zeros(3, np.float32)), encoder)
    (answer,) = await ask(predictor, [("x", ["even"])])
    assert said(answer)[0].selected == [True, False, False]


async def test_each_row_has_its_models_and_each_text_is_read_once(
    predictor: Predictor, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {text: (await ask(predictor, [(text, ["topic"])]))[0] for text in ("one", "two", "three")}
    readings = Readings(encoder, monkeypatch)
    several = [("one", ["refund"]), ("three", ["several"]), ("one", ["topic"])]
    rows = [("one", ["topic"]), ("two", ["refund", "topic"]), *several]
    answers = await ask(predictor, rows)
    assert [[len(found.selected) for found in said(answer)] for answer in answers] == [[3], [2, 3], [2], [3], [3]]
    assert answers[0] == answers[4] == alone["one"]
    beside, by_itself = said(answers[1])[1], said(alone["two"])[0]
    assert beside.probabilities == pytest.approx(by_itself.probabilities, abs=1e-6)
    assert beside.selected == by_itself.selected
    assert len(readings.ids) == 3
    assert await ask(predictor, []) == []


async def test_a_text_that_cannot_be_read_costs_only_its_own_row(predictor: Predictor) -> None:
    rows = [("good", ["topic"]), (LONG, ["topic"]), ("\u200b", ["topic"]), ("good too", ["topic"])]
    answers = await ask(predictor, rows)
    assert [type(answer) for answer in answers] == [list, ContextLengthExceeded, InvalidRequest, list]
    for answer in answers[1:3]:
        assert isinstance(answer, ReflexError)
        assert answer.param == "text"
    assert "512 tokens" in str(answers[1])


async def test_a_damaged_model_refuses_the_whole_call_and_ends_it(
    predictor: Predictor, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = Readings(encoder, monkeypatch)
    rows = [("first", ["no-such-model"]), *((f"text {number}", ["topic"]) for number in range(50))]
    with pytest.raises(DamagedArtifact):
        await ask(predictor, rows)
    assert len(readings.ids) < 10
    (answer,) = await ask(predictor, [("later", ["topic"])])
    assert said(answer)


async def test_a_lone_request_does_not_wait_for_a_batch(
    predictor: Predictor, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = Readings(encoder, monkeypatch)
    batch = asyncio.create_task(ask(predictor, [(f"text number {n}", ["topic"]) for n in range(300)]))
    while len(readings.ids) < 20:
        await asyncio.sleep(0)
    before = len(readings.ids)
    await ask(predictor, [("the lone one", ["topic"])])
    assert readings.ids.index(tuple(encoder.token_ids("the lone one"))) - before <= 8
    assert not batch.done()
    answers = await batch
    assert len(answers) == 300
    assert readings.most_at_once <= 2


async def test_a_long_text_is_read_in_windows_as_in_training(
    predictor: Predictor, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, _, windows = encoder.embed(LONG)
    vector = features[: encoder.description.width]
    readings = Readings(encoder, monkeypatch)
    long, short = await ask(predictor, [(LONG, ["refund"]), ("short", ["refund"])], chunk=True)
    found = said(long)[0]
    assert found.windows == windows == len(readings.ids) - 1
    assert said(short)[0].windows == 1
    refund = vector_of(encoder, "a refund").astype(np.float64)
    assert found.probabilities[0] == pytest.approx(1 / (1 + np.exp(-4 * float(refund @ vector))), abs=1e-5)


async def test_what_is_too_long_even_for_windows_is_told_without_reading_it(
    predictor: Predictor, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = Readings(encoder, monkeypatch)
    tokenized: list[int] = []
    whole = encoder.token_ids

    def recorded(text: str) -> list[int]:
        tokenized.append(len(text))
        return whole(text)

    monkeypatch.setattr(encoder, "token_ids", recorded)
    answers = await ask(predictor, [("中" * 400_000, ["topic"]), (HIDDEN, ["topic"])], chunk=True)
    for answer in answers:
        assert isinstance(answer, ContextLengthExceeded)
        assert str(MAX_CHUNKED_TOKENS) in answer.message
    assert readings.ids == []
    assert sorted(tokenized) == [PROBE_CHARS, PROBE_CHARS, 4 * PROBE_CHARS, 4 * PROBE_CHARS, len(HIDDEN)]


async def test_a_text_of_just_the_most_tokens_is_read_whole(encoder: Encoder) -> None:
    words = "word " * (MAX_CHUNKED_TOKENS - 2)
    ids = encoder.token_ids_up_to_limit(words, MAX_CHUNKED_TOKENS)
    assert ids is not None
    assert len(ids) == MAX_CHUNKED_TOKENS
    windows = encoder.windows(ids)
    assert {part[0] for part in windows} == {ids[0]}
    assert {part[-1] for part in windows} == {ids[-1]}
    assert [token for part in windows for token in part[1:-1]] == ids[1:-1]
    assert max(map(len, windows)) <= encoder.description.max_tokens
    assert encoder.token_ids_up_to_limit(words + "word", MAX_CHUNKED_TOKENS) is None


async def test_heads_beyond_the_resident_bytes_are_read_again(
    encoder: Encoder, predictor: Predictor, tmp_path: Path
) -> None:
    with predicting(encoder, tmp_path, threads=1, most_bytes=12_000) as small:
        for _ in range(2):
            answers = await ask(small, [("x", ["topic", "refund"]), ("y", ["several"])])
            assert [len(said(answer)) for answer in answers] == [2, 1]
            assert len(small.residents._heads) == 1, "some kB each"
            assert 0 < small.residents._bytes <= 12_000
        small.residents.forget(["several"])
        assert not small.residents._heads
        assert small.residents._bytes == 0


async def test_a_panic_in_a_library_ends_its_call_and_no_thread(
    predictor: Predictor, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries written in Rust raise what is no Exception."""

    class Panic(BaseException):
        pass

    def panicking(ids: Sequence[int]) -> Vector:
        raise Panic

    with monkeypatch.context() as patched:
        patched.setattr(encoder, "forward", panicking)
        for _ in range(2 * predictor.threads):
            with pytest.raises(RuntimeError, match="Panic"):
                await ask(predictor, [("x", ["topic"])])
    assert all(thread.is_alive() for thread in predictor._pool)
    (answer,) = await ask(predictor, [("x", ["topic"])])
    assert said(answer)

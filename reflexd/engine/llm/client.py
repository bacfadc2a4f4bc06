"""Decides how a data source's requests reach the local LLM: many under way, each answer kept, none asked twice."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from msgspec import Struct

from reflexd.errors import JobFailure
from reflexd.hookspecs import LLMAnswer, LLMRequest
from reflexd.schemas.worker import LLMAccess

NAME = re.compile(r"[a-z0-9-]{1,64}")
AHEAD = 4
"""Requests that are asked before the oldest one's answer is there, for each that is under way at once."""
TRIES = 3
PAUSES = (1.0, 5.0)
OUTAGE_PAUSE = 2.0
MOST_ANSWER_BYTES = 64 << 20
SYNC_EVERY_SECONDS = 1.0
SERVER_ERROR = 500
PASSING = (429, 502, 503, 504)
"""Statuses of a server that is busy or still loads its model: they say nothing of the request."""
FOREIGN = (401, 403, 404)
"""Statuses that say nothing of the request: this is no server of ours, or not for us."""


class _Response(Struct):
    status_code: int
    request_id: str
    body: dict[str, Any]


class _Line(Struct):
    """A line of a Batch API's output file."""

    id: str
    custom_id: str
    response: _Response | None = None
    error: dict[str, Any] | None = None

    def answer(self) -> LLMAnswer:
        if self.response is not None and self.response.status_code < 400:
            return LLMAnswer(self.custom_id, self.response.body)
        said = self.response.body.get("error") if self.response is not None else self.error
        message = said.get("message") if isinstance(said, dict) else said
        return LLMAnswer(self.custom_id, {}, str(message or "the LLM refused the request"))


_decode_line = msgspec.json.Decoder(_Line).decode


class Client:
    """Asks the LLM on behalf of one job; see hookspecs.LLM."""

    def __init__(self, access: LLMAccess, run_dir: Path, cancelled: threading.Event) -> None:
        self.parameters = access.parameters
        self._access = access
        self._run_dir = run_dir
        self._cancelled = cancelled
        self._answered_at = time.monotonic()
        self._http = httpx2.Client(
            headers={"authorization": f"Bearer {access.key}"},
            timeout=httpx2.Timeout(access.answer_seconds, connect=10.0),
            limits=httpx2.Limits(max_connections=access.concurrency, max_keepalive_connections=access.concurrency),
            trust_env=False,
        )

    def batch(self, name: str, requests: Iterable[LLMRequest]) -> Iterator[LLMAnswer]:
        """Ask each request once and yield the answers in the order of the requests; see hookspecs.LLM."""
        if not NAME.fullmatch(name):
            raise ValueError(f"a batch's name has 1 to 64 of a-z, 0-9 and -, and {name!r} is none")
        with _Answers(self._run_dir / f"llm-{name}.jsonl") as answers:
            workers = ThreadPoolExecutor(self._access.concurrency, "llm")
            self._answered_at = time.monotonic()
            try:
                yield from self._in_order(iter(requests), answers, workers)
            finally:
                workers.shutdown(wait=False, cancel_futures=True)

    def _in_order(
        self, requests: Iterator[LLMRequest], answers: _Answers, workers: ThreadPoolExecutor
    ) -> Iterator[LLMAnswer]:
        under_way: deque[LLMAnswer | Future[LLMAnswer]] = deque()
        for request in itertools.chain(requests, [None]):
            if request is not None:
                known = answers.get(request.custom_id)
                under_way.append(known or workers.submit(self._ask, request, answers))
            while under_way and (request is None or len(under_way) >= AHEAD * self._access.concurrency):
                first = under_way.popleft()
                yield first if isinstance(first, LLMAnswer) else first.result()

    def _ask(self, request: LLMRequest, answers: _Answers) -> LLMAnswer:
        """Return what the LLM answers; raises JobFailure where it gives no answer at all."""
        given = {**request.body, "model": self._access.model}
        if not self._access.seeds:
            given.pop("seed", None)
        body = msgspec.json.encode(given)
        late = broken = 0
        while True:
            if self._cancelled.is_set():
                raise JobFailure("cancelled", "The job was cancelled")
            try:
                response = self._post(body)
            except httpx2.TimeoutException as error:
                late += isinstance(error, httpx2.ReadTimeout)
                if late >= TRIES:
                    raise JobFailure(
                        "llm_timeout",
                        f"The local LLM gave no answer within {self._access.answer_seconds:g} seconds, {TRIES} times",
                    ) from error
            except (httpx2.TransportError, msgspec.DecodeError):
                pass  # it is being started again
            else:
                status = response.status_code
                if status < SERVER_ERROR and status not in PASSING:
                    self._answered_at = time.monotonic()
                    if status in FOREIGN:
                        raise JobFailure("llm_refused", f"The LLM server answered {status}: {_said(response)}")
                    return answers.add(request.custom_id, response)
                if status not in PASSING:
                    broken += 1
                    if broken >= TRIES:
                        return answers.add(request.custom_id, response)
                    self._cancelled.wait(PAUSES[broken - 1])
                    continue
            silent = time.monotonic() - self._answered_at
            if silent > self._access.patience_seconds:
                raise JobFailure("llm_unavailable", f"The local LLM could not be reached for {silent:.0f} seconds")
            self._cancelled.wait(OUTAGE_PAUSE)

    def _post(self, body: bytes) -> _Response:
        headers = {"content-type": "application/json"}
        with self._http.stream("POST", f"{self._access.url}/completions", content=body, headers=headers) as response:
            content = bytearray()
            for piece in response.iter_bytes():
                content += piece
                if len(content) > MOST_ANSWER_BYTES:
                    raise JobFailure("llm_refused", f"The LLM server answered more than {MOST_ANSWER_BYTES >> 20} MB")
            if response.status_code >= 400:
                return _Response(response.status_code, "", _error_body(bytes(content)))
            decoded = msgspec.json.decode(content, type=dict[str, Any])
            return _Response(response.status_code, str(decoded.get("id", "")), decoded)


class _Answers:
    """The answers that a batch has got, on disk in the format of the Batch API's output file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        self._lock = threading.Lock()
        self._synced_at = time.monotonic()
        self._known: dict[str, LLMAnswer] = {}
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        for line in whole.splitlines():
            with contextlib.suppress(msgspec.DecodeError):  # of a disk that was full: it is asked again
                answer = _decode_line(line).answer()
                self._known[answer.custom_id] = answer

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            os.fsync(self._file.fileno())
            self._file.close()

    def get(self, custom_id: str) -> LLMAnswer | None:
        """Return the answer to a request that was made before."""
        return self._known.get(custom_id)

    def add(self, custom_id: str, response: _Response) -> LLMAnswer:
        """Keep an answer before anybody sees it."""
        line = _Line(f"batch_req_{secrets.token_hex(12)}", custom_id, response)
        with self._lock:
            if not self._file.closed:  # else nobody waits for it any more
                rest = memoryview(msgspec.json.encode(line) + b"\n")
                while rest:
                    rest = rest[self._file.write(rest) or 0 :]
                now = time.monotonic()
                if now - self._synced_at > SYNC_EVERY_SECONDS:
                    os.fdatasync(self._file.fileno())
                    self._synced_at = now
        return line.answer()


def _error_body(content: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = None
    return found if isinstance(found, dict) else {"error": {"message": content[:200].decode("utf-8", "replace")}}


def _said(response: _Response) -> str:
    return str(_Line("", "", response).answer().error)

"""Decides how an update is applied: by the engine, by a model where one is configured and the name asks for it, or not.

What a model gives is verified as what the engine gives, and a refusal stands where nobody can do better. The answer has
the line breaks around the file that the prompt has.
"""

from __future__ import annotations

from typing import Literal

import structlog
from msgspec import Struct

from reflexd.config import Apply
from reflexd.engine.apply.messages import Done, Edit, Proposal
from reflexd.engine.apply.model import ApplyModel
from reflexd.engine.apply.pool import Pool
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.llm.direct import NoAnswer
from reflexd.errors import ApplyRefused, ApplyTimeout, InvalidRequest, SourceTooLarge
from reflexd.observability import APPLY_ANSWERS
from reflexd.schemas.apply import Verdict
from reflexd.service.apply_prompt import NEWLINES, ApplyPrompt, frame

Engine = Literal["deterministic", "model"]
FAST, LARGE = "morph-v3-fast", "morph-v3-large"
MOST_QUOTED_CHARS = 80
MOST_BYTES_A_CHARACTER = 4

log = structlog.get_logger(__name__)


class Applied(Struct, frozen=True):
    """The new file, and how it came about."""

    content: str
    verdict: Verdict


class ApplyService:
    """Merges updates into files."""

    def __init__(self, pool: Pool, options: Apply, model: ApplyModel | None) -> None:
        self._pool = pool
        self._options = options
        self._model = model

    async def apply(self, model: str, prompt: ApplyPrompt) -> Applied:
        """Return the whole new file.

        Raises ApplyRefused, ApplyTimeout, SourceTooLarge, InvalidRequest, and RateLimited and Unavailable of the pool.
        """
        self._check(prompt)
        framed = frame(prompt.code)
        if prompt.update.strip(NEWLINES) == framed.file.strip(NEWLINES):
            return _applied(prompt.code, "deterministic", Done(text="", changed=[], confidence=1.0), 0)
        first = framed.before.count("\n")
        proposed = await self._from_model(prompt, framed.file) if model == LARGE else None
        if proposed is not None:
            return _applied(framed.around(proposed.text), "model", proposed, first)
        try:
            done = await self._pool.do(Edit(framed.file, prompt.update))
            return _applied(framed.around(done.text), "deterministic", done, first)
        except Refusal as refusal:
            if model not in (FAST, LARGE):
                proposed = await self._from_model(prompt, framed.file)
                if proposed is not None:
                    return _applied(framed.around(proposed.text), "model", proposed, first)
            APPLY_ANSWERS.labels("refused").inc()
            raise _refused(refusal, prompt, first) from refusal
        except ApplyTimeout:
            APPLY_ANSWERS.labels("timeout").inc()
            raise

    async def _from_model(self, prompt: ApplyPrompt, file: str) -> Done | None:
        """Return the verified file of the model's; None where there is no model, or none that is believed."""
        if self._model is None:
            return None
        try:
            output = await self._model.ask(prompt.instruction, file, prompt.update)
        except NoAnswer as error:
            log.warning("the apply model was asked in vain", why=str(error))
            return None
        output = output.strip(NEWLINES) + ("\n" if file.endswith("\n") else "")
        try:
            return await self._pool.do(Proposal(file, prompt.update, output))
        except (Refusal, ApplyTimeout) as error:
            reason = error.reason if isinstance(error, Refusal) else error.code
            log.info("the apply model is not believed", reason=reason)
            return None

    def _check(self, prompt: ApplyPrompt) -> None:
        for what, text in (("file", prompt.code), ("update", prompt.update)):
            most = self._options.file_bytes
            if len(text) > most or (
                len(text) * MOST_BYTES_A_CHARACTER > most and len(text.encode("utf-8", "surrogatepass")) > most
            ):
                raise SourceTooLarge(f"The {what} has more than {most} bytes ([apply] file_bytes)", param="messages")
            if "\0" in text:
                raise InvalidRequest(f"The {what} is binary: it holds a NUL character", param="messages")
        if not prompt.code.strip("\ufeff \t\r\n"):
            raise InvalidRequest("The file between <code> and </code> is empty", param="messages")


def _applied(content: str, engine: Engine, done: Done, first: int) -> Applied:
    """Return the answer; its file begins on line `first`, from 0."""
    APPLY_ANSWERS.labels(engine).inc()
    changed = [(start + first, end + first) for start, end in done.changed]
    return Applied(content, Verdict(engine=engine, confidence=done.confidence, changed=changed))


def _refused(refusal: Refusal, prompt: ApplyPrompt, first: int) -> ApplyRefused:
    """Return what a caller is told: the engine's sentence, the segment, and the places it may mean."""
    last = first + frame(prompt.code).file.rstrip(NEWLINES).count("\n")  # the engine's end of the file lies behind that
    candidates = sorted({min(place + first, last) + 1 for place in refusal.candidates})
    places = []
    if refusal.line is not None:
        said = prompt.update.split("\n")[refusal.line].strip()
        quoted = said if len(said) <= MOST_QUOTED_CHARS else said[:MOST_QUOTED_CHARS] + "..."
        places.append(f"line {refusal.line + 1} of the update: {quoted}")
    if candidates:
        places.append(f"line {' or '.join(map(str, candidates))} of the file")
    message = refusal.message + (f" ({'; '.join(places)})" if places else "")
    line = None if refusal.line is None else refusal.line + 1
    return ApplyRefused(message, reason=refusal.reason, line=line, candidates=candidates)

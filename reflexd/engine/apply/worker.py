"""Decides what an apply process does: import the engine, say so, and answer one task after the other.

`python -m reflexd.engine.apply.worker`. It has neither a database nor a listener, imports no model, and ends with the
daemon; a task that takes too long is ended from outside, with the process.
"""

from __future__ import annotations

import gc
import os
import traceback

from msgspec import Struct

from reflexd.engine.apply.merge import merge
from reflexd.engine.apply.messages import (
    LENGTH_BYTES,
    Answer,
    Done,
    Edit,
    Failed,
    Proposal,
    Ready,
    Refused,
    decode_task,
    framed,
)
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.verification import verify
from reflexd.engine.lifeline import die_with_parent, give_way

NICE = 5
"""Somebody waits for a merge, and more people for predictions."""


def main() -> None:
    """Answer until stdin closes."""
    die_with_parent()
    # Anything a library prints must not be taken for a message: descriptor 1 becomes stderr.
    out = os.dup(1)
    os.dup2(2, 1)
    give_way(NICE)
    gc.freeze()  # what the imports made stays; collections need not look at it again
    _send(out, Ready())
    while (head := _receive(LENGTH_BYTES)) and (content := _receive(int.from_bytes(head, "big"))):
        _send(out, answer(decode_task(content)))


def answer(task: Edit | Proposal) -> Answer:
    """Return what becomes of a task, whatever it is."""
    try:
        if isinstance(task, Proposal):
            return verify(task.original, task.update, task.output)
        merged = merge(task.original, task.update)
        return Done(text=merged.text, changed=merged.changed, confidence=merged.confidence)
    except Refusal as refusal:
        candidates = list(map(int, refusal.candidates))
        return Refused(reason=refusal.reason, message=refusal.message, line=refusal.line, candidates=candidates)
    except Exception as error:  # the caller must get an answer, and the operator the place
        where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        return Failed(type(error).__name__, where)


def _receive(count: int) -> bytes | bytearray:
    """Return so many bytes of stdin, or nothing where it has closed."""
    content = bytearray(count)
    view = memoryview(content)
    while view:
        if not (size := os.readv(0, [view])):
            return b""
        view = view[size:]
    return content


def _send(out: int, message: Struct) -> None:
    for part in framed(message):
        view = memoryview(part)
        while view:
            view = view[os.write(out, view) :]


if __name__ == "__main__":
    main()

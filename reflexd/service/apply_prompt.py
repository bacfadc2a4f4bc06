"""Decides where file and update stand in an apply prompt, and refuses one that can be read in more than one way.

The file ends where `</code>` and `<update>` follow each other. A file about this very format may hold that, too; then
the place counts at which the tags in the file and those in the update are balanced, if there is one such place only.
Words before and behind are read over; where they mention the tags, it may not be known where a text begins or ends.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from msgspec import Struct

from reflexd.errors import InvalidRequest
from reflexd.schemas.apply import ChatMessage

BETWEEN = re.compile(r"</code>\s*<update>")
INSTRUCTION = re.compile(r"\s*<(instructions?)>")
SAID = re.compile(r"<(instructions?)>(.*?)</\1>", re.DOTALL)
TAG = re.compile(r"<(/?)(code|update)>")
EXPECTED = (
    "The last user message must hold <code>the whole file</code> and then <update>the lazy edit</update>, with an"
    " <instruction>...</instruction> before them or without one"
)
NEWLINES = "\r\n"


class ApplyPrompt(Struct, frozen=True):
    """What is to be applied: the text between the tags as it is."""

    instruction: str
    code: str
    update: str


class Framed(Struct, frozen=True):
    """A file without the line breaks around it: those before it, the file itself, and those after its first one."""

    before: str
    file: str
    after: str

    def around(self, file: str) -> str:
        """Return another file with the line breaks of this one."""
        return self.before + file + self.after


MOST_PLACES = 150_000
"""Where the file may end, by the tags: which of them is looked for."""


def last_user_text(messages: Sequence[ChatMessage]) -> str:
    """Return the text of the last user message; raises InvalidRequest where there is none."""
    for number in reversed(range(len(messages))):
        message = messages[number]
        if message.role == "user":
            return text_of(message, number)
    raise InvalidRequest(f"There is no user message. {EXPECTED}", param="messages")


def text_of(message: ChatMessage, number: int) -> str:
    """Return a message's text, its parts put together; raises InvalidRequest for a part that is no text."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for place, part in enumerate(message.content):
        if part.type != "text" or part.text is None:
            raise InvalidRequest(
                "Only parts of the type text are read", param=f"messages[{number}].content[{place}].type"
            )
    return "".join(part.text or "" for part in message.content)


def characters_of(message: ChatMessage) -> int:
    """Return how long a message's text is, whatever else it has."""
    if isinstance(message.content, str):
        return len(message.content)
    return sum(len(part.text or "") for part in message.content or ())


def read_prompt(text: str) -> ApplyPrompt:
    """Take a prompt apart; raises InvalidRequest that says what is expected."""
    instruction, start = _opening(text)
    end = text.rfind("</update>")
    places = list(islice((found for found in BETWEEN.finditer(text, start) if found.end() <= end), MOST_PLACES + 1))
    if len(places) > MOST_PLACES:
        raise InvalidRequest(f"There are too many tags in the prompt. {EXPECTED}", param="messages")
    if not places:
        raise InvalidRequest(f"{_missing(text, start)}. {EXPECTED}", param="messages")
    if len(places) > 1:
        balanced = _balanced(text, start, end)
        places = [found for found in places if found.start() in balanced]
    if len(places) != 1:
        raise InvalidRequest(
            "The file or the update holds </code> and <update> itself, so that it cannot be known where the file ends."
            f" {EXPECTED}",
            param="messages",
        )
    _check_ends(text, start, places[0], end)
    return ApplyPrompt(instruction, text[start : places[0].start()], text[places[0].end() : end])


def frame(code: str) -> Framed:
    """Take the line breaks around a file off it; its own last one, if it has any, stays."""
    begin = len(code) - len(code.lstrip(NEWLINES))
    last = max(begin, len(code.rstrip(NEWLINES)))
    if last == begin:
        return Framed(code, "", "")
    own = last + (2 if code.startswith("\r\n", last) else 1 if code.startswith("\n", last) else 0)
    return Framed(code[:begin], code[begin:own], code[own:])


def _opening(text: str) -> tuple[str, int]:
    """Return the instruction, and where the file begins; raises InvalidRequest."""
    if opened := INSTRUCTION.match(text):
        closed = re.compile(rf"</{opened[1]}>[^<]*<code>").search(text, opened.end())
        if closed is None:
            raise InvalidRequest(f"<code> does not follow on </{opened[1]}>. {EXPECTED}", param="messages")
        return text[opened.end() : closed.start()].strip(), closed.end()
    place = text.find("<code>")
    if place < 0 or "<update>" in text[:place] or "</code>" in text[:place]:
        raise InvalidRequest(f"There is no <code> before all other tags. {EXPECTED}", param="messages")
    said = SAID.search(text, 0, place)
    return said[2].strip() if said else "", place + len("<code>")


def _check_ends(text: str, start: int, place: re.Match[str], end: int) -> None:
    """Raise InvalidRequest where words before the file or behind the update may be taken for a part of it."""
    file = Counter(tag[1] for tag in TAG.finditer(text, start, place.start()) if tag[2] == "code")
    led = INSTRUCTION.match(text) is None and text[: start - len("<code>")].strip()
    if led and file[""] > file["/"]:
        raise InvalidRequest(f"It cannot be known which <code> the file begins behind. {EXPECTED}", param="messages")
    depth = 1
    for tag in TAG.finditer(text, place.end(), end):
        if tag[2] == "update":
            depth += -1 if tag[1] else 1
            line = text[text.rfind("\n", 0, tag.start()) + 1 : tag.start()]
            if depth == 0 and (not line.strip() or text[tag.end() : tag.end() + 1].isspace()):
                raise InvalidRequest(f"It cannot be known at which </update> it ends. {EXPECTED}", param="messages")
            depth = max(depth, 1)


def _missing(text: str, start: int) -> str:
    for tag in ("</code>", "<update>", "</update>"):
        if text.find(tag, start) < 0:
            return f"There is no {tag}"
    return "<update> does not follow on </code>, or </update> does not follow on that"


def _balanced(text: str, start: int, end: int) -> set[int]:
    """Return where a file may end so that as many tags are opened as closed, before there and behind."""
    open_now = {"code": 0, "update": 0}
    found = set()
    for tag in TAG.finditer(text, start, end):
        if not any(open_now.values()):
            found.add(tag.start())
        open_now[tag[2]] += -1 if tag[1] else 1
    # What is left over must be the two tags of the place itself.
    return found if open_now == {"code": -1, "update": 1} else set()

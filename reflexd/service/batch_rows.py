"""Decides what a row of a batch must be, how it waits on disk, and what a line of an input file must be.

What is wrong with a row's model refuses a whole upload; what is wrong with its text is told in its place. A line of a
file is checked as an envelope only: its body is a predict request, and a bad one is a failed request and no bad file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from reflexd.errors import ContextLengthExceeded, InvalidJSON, InvalidRequest
from reflexd.registry.batches import MOST_BLANK_LINES, Line
from reflexd.schemas.batches import ENDPOINT, MAX_CUSTOM_ID, UploadRequest
from reflexd.service.decoding import decode, field_error
from reflexd.service.questions import Questions, check_count
from reflexd.service.rendering import encode
from reflexd.store.batches import BatchError

DIGEST_BYTES = 16
TEXT_ERRORS: dict[str | None, type[InvalidRequest]] = {
    kind.code: kind for kind in (InvalidRequest, InvalidJSON, ContextLengthExceeded)
}
"""What can be wrong with a row's text before it is classified, by code."""


class WaitingRow(Struct, kw_only=True, omit_defaults=True):
    """A row as it waits on disk: with its text, or with what is wrong with that."""

    id: str
    model: list[str]
    text: str = ""
    error: dict[str, str | None] | None = None

    def problem(self) -> InvalidRequest | None:
        """Return what is wrong with its text."""
        if self.error is None:
            return None
        return TEXT_ERRORS[self.error["code"]](self.error["message"], param=self.error["param"])


class Upload(Struct, frozen=True, kw_only=True):
    """An upload whose rows may be stored."""

    lines: list[bytes]
    models: dict[tuple[str, ...], int]
    """Each list of models that rows name, and the first row that does."""
    request: UploadRequest


def read_upload(body: bytes, questions: Questions, most: int) -> Upload:
    """Return what an UploadRequest of `most` rows at most asks; raises InvalidRequest that names the field.

    It may take a second, and touches nothing but its arguments: to be called in a thread.
    """
    request = decode(body, UploadRequest)
    check_count(request.requests, most, "requests")
    lines: list[bytes] = []
    models: dict[tuple[str, ...], int] = {}
    ids: dict[str, int] = {}
    for number, given in enumerate(request.requests):
        place = f"requests[{number}]"
        if len(given.id) > MAX_CUSTOM_ID:
            raise InvalidRequest(f"id must have {MAX_CUSTOM_ID} characters at most", param=f"{place}.id")
        if (first := ids.setdefault(given.id, number)) != number:
            raise InvalidRequest(
                f"The id of this row is that of requests[{first}] already: their results could not be told apart",
                param=f"{place}.id",
            )
        try:
            names = questions.names(given, listed=True)
        except InvalidRequest as error:
            raise type(error)(error.message, param=f"{place}.{error.param}") from error
        models.setdefault(tuple(names), number)
        try:
            row = WaitingRow(id=given.id, model=names, text=questions.text(given))
        except InvalidRequest as error:
            row = WaitingRow(id=given.id, model=names, error=error.body()["error"])
        lines.append(encode(row))
    return Upload(lines=lines, models=models, request=request)


class GivenLine(Struct, kw_only=True):
    """A line of an input file; `body` is a PredictRequest, or what should have been one."""

    custom_id: str
    method: str
    url: str
    body: Raw


class _Naming(Struct):
    model: str | UnsetType = UNSET
    models: list[str] | UnsetType = UNSET


_decode_line = msgspec.json.Decoder(GivenLine).decode
_decode_naming = msgspec.json.Decoder(_Naming).decode


def read_line(line: Line) -> GivenLine:
    """Return a line that has been checked."""
    return _decode_line(line.content)


def check_lines(lines: Sequence[Line], seen: set[bytes], most_names: int) -> tuple[list[BatchError], dict[str, int]]:
    """Return what is wrong with lines of an input file, and for each model that their bodies name the first that does.

    `seen` holds digests of the custom_ids of the lines before, and gets those of these. A body that names more than
    `most_names` models is refused when it is asked, and so they are not looked for.
    """
    errors: list[BatchError] = []
    names: dict[str, int] = {}
    for line in lines:
        try:
            if line.too_long:
                raise _Wrong("line_too_long", "The line has more bytes than a request may have", None)
            if line.too_many_blanks:
                said = f"A file can have {MOST_BLANK_LINES} blank lines at most: what follows was not read"
                raise _Wrong("too_many_blank_lines", said, None)
            given = _read(line.content)
            _check(given, seen)
        except _Wrong as wrong:
            errors.append(BatchError(wrong.code, wrong.message, line.number, wrong.param))
        else:
            named = _named(given.body)
            for name in named if len(named) <= most_names else ():
                names.setdefault(name, line.number)
    return errors, names


class _Wrong(Exception):
    def __init__(self, code: str, message: str, param: str | None) -> None:
        self.code, self.message, self.param = code, message, param


def _read(content: bytes) -> GivenLine:
    try:
        return _decode_line(content)
    except msgspec.ValidationError as error:
        told = field_error(error)
        missing = "missing required field" in told.message
        raise _Wrong("missing_required_parameter" if missing else "invalid_value", told.message, told.param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Wrong("invalid_json_line", "This line is not valid JSON", None) from error


def digest(text: str) -> bytes:
    """Return what stands for a text of any length where very many are remembered."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def _check(given: GivenLine, seen: set[bytes]) -> None:
    if not 1 <= len(given.custom_id) <= MAX_CUSTOM_ID:
        raise _Wrong("invalid_value", f"custom_id must have 1 to {MAX_CUSTOM_ID} characters", "custom_id")
    if (known := digest(given.custom_id)) in seen:
        raise _Wrong("duplicate_custom_id", "An earlier line has this custom_id already", "custom_id")
    seen.add(known)
    if given.method != "POST":
        raise _Wrong("invalid_method", "method must be POST", "method")
    if given.url != ENDPOINT:
        raise _Wrong("invalid_url", f"url must be the batch's endpoint, {ENDPOINT}", "url")


def _named(body: Raw) -> list[str]:
    """Return the models that a predict request names; none where it is no good one, which is told when it is asked."""
    try:
        found = _decode_naming(memoryview(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    names = found.models if isinstance(found.models, list) else []
    return [*names, found.model] if isinstance(found.model, str) else names

"""Decides the published description of the API: an OpenAPI 3.1 document, built once, at start, from the real routes.

Paths, methods, scopes, parameters and answer types are read off the handlers; openapi_operations.py adds what those do
not say, and openapi_schemas.py the bodies. The framework's own generator is not used: it sees neither the bodies, which
arrive as bytes, nor which errors a route answers.
"""

from __future__ import annotations

import functools
import operator
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from litestar import Response
from litestar.constants import RESERVED_KWARGS
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.typing import FieldDefinition
from msgspec import Struct

from reflexd import __version__
from reflexd.api.auth import PUBLIC, scopes_of
from reflexd.api.openapi_operation import ALWAYS, Operation
from reflexd.api.openapi_operations import OPERATIONS, TAGS
from reflexd.api.openapi_schemas import Schema, answer_schemas, body_schema, merge, request_schemas
from reflexd.config import Limits
from reflexd.errors import MethodNotAllowed, ReflexError, RouteNotFound
from reflexd.hookspecs import DataSource

OF_NO_OPERATION = (RouteNotFound(), MethodNotAllowed())
"""What is answered where no operation is meant."""
REASONS = {
    400: "The request is refused",
    401: "No valid API key",
    403: "The key may not do this",
    404: "There is no such thing",
    408: "The request came too slowly",
    409: "Not ready yet",
    413: "The body is too large",
    415: "The body is compressed",
    421: "The Host header names another server",
    422: "The update is not applied",
    429: "Too much at once",
    431: "The headers are too large",
    500: "The daemon failed",
    503: "Not possible at present",
}
ABOUT = """\
Train text classifiers and ask them, on this machine. The fine-tuning routes speak the OpenAI API, so its SDKs work.

Send an API key as `Authorization: Bearer rfx_...`. Every answer carries an `x-request-id`; one that the caller sends
(1 to 64 letters, digits, dots, dashes and underscores) is used. `x-stainless-retry-count`, which the SDKs send with a
retry, makes a retried request answer as the first one did.

Every failure has the body of the schema Error. Each operation lists all that it can answer; an address or a method
that is none of an operation is answered """


class Described(Struct, frozen=True, kw_only=True):
    """What the document says besides the routes: the bounds in force and the fields that plugins add."""

    limits: Limits
    uploaded: int
    """Rows of the largest upload of a batch."""
    sources: Mapping[str, DataSource]


class _Found(Struct, frozen=True):
    """One method of one path: its handler and what is said of it."""

    path: str
    method: str
    handler: HTTPRouteHandler
    operation: Operation
    in_path: frozenset[str]


def build_document(routes: Iterable[Any], described: Described) -> bytes:
    """Return the document as JSON; raises KeyError for a route or a parameter that nothing is said of."""
    found = sorted(_find(routes), key=lambda each: list(OPERATIONS).index((each.method, each.path)))
    types_of = [_answer_type(each.handler) for each in found]
    schemas, answers = answer_schemas(types_of)
    components = merge(answers, request_schemas(described.limits, described.uploaded, described.sources))
    responses: dict[str, Schema] = {}
    paths: dict[str, dict[str, Any]] = {}
    for each, schema in zip(found, schemas, strict=True):
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, schema, responses)
    refusals = [f"{error.status} {error.body()['error']['code']} ({error.message})" for error in OF_NO_OPERATION]
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "reflexd",
            "version": __version__,
            "summary": "Trains text classifiers and answers with them.",
            "description": ABOUT + " and ".join(refusals) + ".",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": said} for name, said in TAGS.items()],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": responses,
            "headers": {"x-request-id": REQUEST_ID},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key of `reflexd keys create`."}
            },
        },
    }
    return msgspec.json.encode(document)


REQUEST_ID: Schema = {
    "description": "Names this request in the daemon's log.",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 64},
}
ID_HEADER = {"x-request-id": {"$ref": "#/components/headers/x-request-id"}}


def _find(routes: Iterable[Any]) -> Iterator[_Found]:
    """Yield every method of every route that is to be published."""
    for route in routes:
        if not isinstance(route, HTTPRoute):
            continue
        for method, (handler, _) in route.route_handler_map.items():
            if method != "OPTIONS" and handler.include_in_schema is not False:  # the framework answers OPTIONS itself
                path = route.path_format
                said = OPERATIONS[str(method), path]
                yield _Found(path, str(method), handler, said, frozenset(route.path_parameters))


def _operation(found: _Found, schema: Schema, responses: dict[str, Schema]) -> Schema:
    handler, operation = found.handler, found.operation
    summary, _, rest = (handler.fn.__doc__ or "").strip().partition("\n")
    scopes = scopes_of(handler)
    access = f"The key needs the scope {' or '.join(f'`{scope}`' for scope in scopes)}."
    if PUBLIC in scopes:
        access = "No key is needed."
    said: Schema = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": summary.rstrip("."),
        "description": "\n\n".join(filter(None, (" ".join(rest.split()), operation.description, access))),
        "parameters": _parameters(found),
    }
    if PUBLIC in scopes:
        said["security"] = []
    if operation.body is not None:
        content = {"schema": body_schema(operation.body), "examples": _examples(operation.requests)}
        said["requestBody"] = {"required": True, "content": {operation.body_media: content}}
    answers = {"200": _success(found, schema)}
    for other, example in operation.other.items():
        answers[other] = _other(found, schema, example)
    by_status: dict[int, list[ReflexError]] = {}
    for error in (*operation.errors, *ALWAYS):
        by_status.setdefault(error.status, []).append(error)
    for status, errors in sorted(by_status.items()):
        refusal = _refusal(status, errors, with_body=found.method != "HEAD")
        answers[str(status)] = _shared(refusal, errors, responses)
    said["responses"] = dict(sorted(answers.items()))
    return said


def _answer_type(handler: HTTPRouteHandler) -> Any:
    """Return what the handler returns as JSON: out of a framework's Response, and without a stream beside it."""
    kind = handler.parsed_return_field.annotation
    if typing.get_origin(kind) is Response:
        return typing.get_args(kind)[0]
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    json = [part for part in typing.get_args(kind) if not (isinstance(part, type) and issubclass(part, Response))]
    return functools.reduce(operator.or_, json)


def _success(found: _Found, schema: Schema) -> Schema:
    operation = found.operation
    answer: Schema = {"description": "Done", "headers": ID_HEADER}
    if found.method == "HEAD":
        return answer
    content: Schema = {"schema": schema}
    if operation.answers:
        content["examples"] = _examples(operation.answers)
    else:
        content["example"] = operation.answer
    answer["content"] = {operation.media: content}
    if operation.stream:
        answer["content"]["text/event-stream"] = {
            "schema": {"$ref": f"#/components/schemas/{operation.stream_schema}"},
            "example": operation.stream,
        }
    return answer


def _other(found: _Found, schema: Schema, example: Any) -> Schema:
    answer: Schema = {"description": "Not ready", "headers": {**ID_HEADER, "retry-after": _header("2")}}
    if found.method != "HEAD":
        answer["content"] = {"application/json": {"schema": schema, "example": example}}
    return answer


def _refusal(status: int, errors: Sequence[ReflexError], with_body: bool) -> Schema:
    """Return the response of one status: the error schema, narrowed to the codes that can occur, one example each."""
    codes = list(dict.fromkeys(error.code for error in errors))
    narrowed = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
    headers: Schema = {}
    for error in errors:
        for name, value in error.headers.items():
            headers[name] = _header(value, required=all(name in other.headers for other in errors))
    response: Schema = {"description": REASONS[status], "headers": ID_HEADER | headers}
    if with_body:
        bodies: dict[str, Any] = {}
        for error in errors:
            bodies.setdefault(error.code or "invalid_request", error.body())
        content = {
            "schema": {"allOf": [{"$ref": "#/components/schemas/Error"}, narrowed]},
            "examples": _examples(bodies),
        }
        response["content"] = {"application/json": content}
    return response


def _shared(response: Schema, errors: Sequence[ReflexError], responses: dict[str, Schema]) -> Schema:
    """Put a response among the components, once, and return a reference to it."""
    name = first = "-or-".join(dict.fromkeys(type(error).__name__ for error in errors))
    number = 1
    while responses.setdefault(name, response) != response:
        number += 1
        name = f"{first}-{number}"
    return {"$ref": f"#/components/responses/{name}"}


def _header(value: str, required: bool = True) -> Schema:
    return {"required": required, "schema": {"type": "string"}, "example": value}


def _examples(given: Mapping[str, Any]) -> Schema:
    return {name: {"summary": name, "value": value} for name, value in given.items()}


def _parameters(found: _Found) -> list[Schema]:
    """Return the parameters that the handler takes, then those that it reads off the request by itself."""
    given: dict[str, Schema] = {}
    said = found.operation.parameters
    provided = found.handler.resolve_dependencies().keys() | RESERVED_KWARGS
    for name, field in found.handler.parsed_fn_signature.parameters.items():
        if name not in provided:
            parameter = _parameter(name, field, name in found.in_path)
            given[parameter["name"]] = parameter | said[parameter["name"]]
    return [*given.values(), *({"name": name, **rest} for name, rest in said.items() if name not in given)]


def _parameter(name: str, field: FieldDefinition, in_path: bool) -> Schema:
    """Return what a handler's signature says of a parameter."""
    declared = field.kwarg_definition
    header = getattr(declared, "header", None)
    union = typing.get_origin(field.annotation) in (typing.Union, types.UnionType)
    given = typing.get_args(field.annotation) if union else (field.annotation,)
    kinds = [kind for kind in given if kind is not type(None)]
    schema = msgspec.json.schema(kinds[0])
    for ours, theirs in (("ge", "minimum"), ("le", "maximum")):
        if (bound := getattr(declared, ours, None)) is not None:
            schema[theirs] = bound
    if isinstance(field.default, (int, str)):
        schema["default"] = field.default
    place = "path" if in_path else "header" if header else "query"
    return {"name": header or name, "in": place, "required": in_path, "schema": schema}

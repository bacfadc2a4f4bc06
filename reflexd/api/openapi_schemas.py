"""Decides the published schemas: those of msgspec's Structs, with the bounds of [limits] and what a type cannot say.

Answers are described exactly: a key that every answer has is required, and `default` means nothing there. Requests keep
their defaults, and the create request gets one field for each registered data source.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from reflexd.api import openapi_batches as batches
from reflexd.api.openapi_chat import IN_DOUBT, STREAMED_CHUNK
from reflexd.api.openapi_operations import CREATE, OPERATIONS
from reflexd.config import Limits
from reflexd.errors import (
    AuthenticationFailed,
    InsufficientScope,
    InvalidRequest,
    RateLimited,
    ReflexError,
    Unavailable,
)
from reflexd.hookspecs import DataSource, Example, payload_type, takes_file
from reflexd.schemas.batches import UploadRow
from reflexd.schemas.reflex import BatchRow
from reflexd.service.admission import LATER, CreateFields
from reflexd.service.batches import CreateBatch

Schema = dict[str, Any]
REF = "#/components/schemas/{name}"
GENERIC_PAGE = re.compile(r"\bPage_(\w+?)_(?!\w)")
"""msgspec's name for a Page of something."""
NULL: Schema = {"type": "null"}

ERROR: Schema = {
    "description": "Every failure has this body.",
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string", "description": "A sentence for people."},
                "type": {
                    "type": "string",
                    "enum": sorted(
                        kind.type
                        for kind in (
                            ReflexError,
                            InvalidRequest,
                            AuthenticationFailed,
                            InsufficientScope,
                            RateLimited,
                            Unavailable,
                        )
                    ),
                },
                "param": {"type": ["string", "null"], "description": "The path of the field that is wrong."},
                "code": {"type": ["string", "null"], "description": "A word for programs."},
                "reflexd": IN_DOUBT,
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}

STREAMED: Schema = {
    "description": "One server-sent event. Lines that begin with a colon keep the connection open and mean nothing.",
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "The event's id, to go on from with Last-Event-ID."},
        "data": {
            "type": "string",
            "description": "A JobEvent as JSON; at the end `[DONE]`, or an Error where the stream may not go on.",
            "anyOf": [
                {"const": "[DONE]"},
                {
                    "contentMediaType": "application/json",
                    "contentSchema": {
                        "anyOf": [{"$ref": REF.format(name="JobEvent")}, {"$ref": REF.format(name="Error")}]
                    },
                },
            ],
        },
    },
    "required": ["data"],
}

STATUSES = ["queued", "running", "prepared", "succeeded", "failed", "cancelled"]
MODES = ["single_label", "multi_label"]
SCORE: Schema = {"minimum": 0, "maximum": 1}
RESULT = (
    "The scores: `accuracy`, `f1_score` and more, measured on rows that training has not seen. A job's holds"
    " the errors by label, `ece` and `warnings` too, and with a validation file `cross_validated`: what the rows of the"
    " job itself had said."
)

SAID: dict[str, dict[str, Schema]] = {
    "FineTuningJob": {
        "status": {"enum": STATUSES, "description": "A job that rests before its training shows as prepared."},
        "phase": {"enum": ["validating_files", "training", None], "description": "What a running job does."},
        "paused": {"description": "The job is queued, and waits until it is resumed."},
        "estimated_finish": {"description": "Always null: nothing is promised."},
        "fine_tuned_model": {"description": "The name that the model answers to, once there is one."},
        "mode": {"enum": MODES},
        "trained_examples": {"minimum": 0},
        "result": {"description": RESULT},
        "organization_id": {"description": "The tenant that the job belongs to."},
    },
    "FileObject": {
        "bytes": {"minimum": 0},
        "expires_at": {"description": "When the file is deleted; null: only on request."},
        "status_details": {"description": "Always null."},
    },
    "JobEvent": {"data": {"description": "A metrics event carries `epoch`, `step` and `train_loss` here."}},
    "Model": {
        "mode": {"enum": MODES},
        "version": {"minimum": 1},
        "owned_by": {"description": "The tenant that the model belongs to."},
        "job_id": {"description": "The job that made it; null for a default Reflex."},
        "result": {"description": RESULT},
    },
    "RequestCounts": {"total": {"minimum": 0}, "completed": {"minimum": 0}, "failed": {"minimum": 0}},
    "Batch": {
        "output_file_id": {"description": "The answers, one line each."},
        "error_file_id": {"description": "The requests that were refused, one line each."},
    },
    "ClassScore": {"score": SCORE},
    "Prediction": {
        "mode": {"enum": MODES},
        "label": {"description": "The selected label with the highest score; null where none is selected."},
        "confidence": {"description": "The score of `label`; null where no label is selected.", **SCORE},
        "all_scores": {"items": {"type": "number", **SCORE}},
        "in_domain": {
            "description": "The share of the model's own rows that lie at least as far from its labels as this text:"
            " near 0 means none of the labels. Null where the model was trained on too few rows, or by an older"
            " version.",
            **SCORE,
        },
        "index": {"description": "The place of the text in `texts`; only where `texts` was given.", "minimum": 0},
        "windows": {"description": "Windows that the text was read in; only under `long_text: chunk`.", "minimum": 1},
    },
}
"""What is added to the properties of answers."""

MORE = {
    "Prediction": " No key is certain: `fields` of the request may leave each of them out.",
    "BatchResult": " It has either `predictions` or `error`.",
}


def answer_schemas(kinds: Iterable[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """Return the schema of each answer type, in order, and the components that they need."""
    # msgspec describes no union of Structs: the parts are described one by one.
    parts = [_parts(kind) for kind in kinds]
    flat, components = _components([part for each in parts for part in each])
    described = iter(flat)
    alternatives = [[next(described) for _ in each] for each in parts]
    schemas = [each[0] if len(each) == 1 else {"anyOf": each} for each in alternatives]
    for name, component in components.items():
        properties = component.get("properties", {})
        if "properties" in component:
            always = set(component["required"]) | {key for key, given in properties.items() if "default" in given}
            component["required"] = [key for key in properties if key in always]
        for given in properties.values():
            given.pop("default", None)
        for key, said in SAID.get(name, {}).items():
            properties[key] |= said
        component["description"] = component.get("description", "") + MORE.get(name, "")
    components |= {"Error": ERROR, "StreamedEvent": STREAMED, "StreamedChunk": STREAMED_CHUNK}
    return schemas, components


def _parts(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def request_schemas(limits: Limits, uploaded: int, sources: Mapping[str, DataSource]) -> dict[str, Schema]:
    """Return the components that request bodies need, the create request's among them."""
    bodies = {operation.body for operation in OPERATIONS.values() if isinstance(operation.body, type)}
    _, components = _components(
        [CreateFields, CreateBatch, BatchRow, UploadRow, *sorted(bodies, key=lambda kind: kind.__name__)]
    )
    del components["GivenRow"]  # how rows are read; what they must be is BatchRow and UploadRow
    text = {"minLength": 1, "maxLength": limits.text_chars}

    predict = components["PredictRequest"]["properties"]
    predict["text"] |= text
    predict["texts"] |= {"items": {"type": "string", **text}, "minItems": 1, "maxItems": limits.texts}
    predict["models"] |= {"minItems": 1, "maxItems": limits.models}
    components["PredictRequest"]["allOf"] = [_one_of("model", "models"), _one_of("text", "texts")]
    components["BatchRequest"]["properties"]["requests"] |= {
        "items": {"$ref": REF.format(name="BatchRow")},
        "minItems": 1,
        "maxItems": limits.texts,
    }
    row = components["BatchRow"]
    row["properties"]["text"] |= {"description": f"1 to {limits.text_chars} characters."}
    row["properties"]["model"] = {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": limits.models},
        ]
    }
    row["description"] += " What is wrong with a row beside its `id` is told in its result."
    components["UploadRequest"]["properties"]["requests"] |= {
        "items": {"$ref": REF.format(name="UploadRow")},
        "minItems": 1,
        "maxItems": uploaded,
    }
    upload = components["UploadRow"]
    upload["properties"]["text"] |= {"description": f"1 to {limits.text_chars} characters."}
    upload["properties"]["model"] |= {"minItems": 1, "maxItems": limits.models}
    components[batches.CREATE] = components.pop("CreateBatch") | {"title": batches.CREATE}
    fields = {name: _field_of(source, limits, components) for name, source in sources.items()}
    components[CREATE] = _create_request(components.pop("CreateFields"), limits, fields)
    return components


def _one_of(*names: str) -> Schema:
    return {"oneOf": [{"required": [name]} for name in names]}


def _create_request(fixed: Schema, limits: Limits, fields: Mapping[str, Schema]) -> Schema:
    """Return the create request: the fixed fields, one for each data source, and those of a later version."""
    properties = fixed["properties"]
    name = {"type": ["string", "null"], "minLength": 1, "maxLength": 64}
    properties["model"]["description"] = (
        "Left out, null, empty or `morph-reflex-v1`: train from scratch. Else the same as `base_model`."
    )
    properties["base_model"]["description"] = (
        "Start from this model: a served name, a job's id, `name@version` or a default Reflex."
    )
    properties["suffix"] = {
        **name,
        "description": "The name that the classifier answers to; without it that is the job's id. Letters, digits,"
        " spaces and - _ . : + ( ) in normal form NFC, beginning with a letter or a digit.",
    }
    properties["labels"] = {
        "type": ["array", "null"],
        "items": {"type": "string", "minLength": 1, "maxLength": limits.label_chars},
        "uniqueItems": True,
        "maxItems": limits.labels,
        "description": "The labels in the order of the scores, at least two; by default as they first appear in the"
        " rows. Data sources that write or label rows need them.",
    }
    properties["hyperparameters"]["description"] = (
        "`budget_seconds` is how long the encoder may be tuned, in seconds of a usual processor; 0 leaves it as it is."
        " The others are chosen by the trainer, and an event says so."
    )
    properties["webhook_url"]["description"] = (
        "Told when the job has ended, signed as Standard Webhooks has it: an https URL, or one of a host that the"
        " operator lists. Shown again without its path."
    )
    properties |= fields
    # Of no type: beside another input anything that is no file's id is ignored.
    said = fields.get("training_file", {}).get("description", "")
    sent = "The OpenAI SDK always sends one: empty or unknown, it is ignored beside another input."
    properties["training_file"] = {"description": f"{said}\n\n{sent}".strip()}
    properties["validation_file"]["description"] = (
        "The id of an uploaded file with rows, in the forms of training_file, that the model is to be scored on; it is"
        " not trained on them. `result` is then of these rows, and says so in its `method`."
    )
    for later in LATER:
        properties[later] = {
            "type": ["null", "array"],
            "maxItems": 0,
            "description": "Not supported by this version: null or [] is ignored, anything else refused.",
        }
    given = ", ".join(f"`{name}`" for name in fields)
    return {
        "title": CREATE,
        "description": f"A training job. Exactly one of these inputs must be given: {given}. Unknown fields are"
        " ignored.",
        "type": "object",
        "properties": properties,
    }


def _field_of(source: DataSource, limits: Limits, components: dict[str, Schema]) -> Schema:
    """Return the schema of a source's field, and add what it needs to the components.

    Their names begin with the source's, so that a stranger's Struct is never taken for another of its name.
    """
    kind = payload_type(source)
    said = inspect.cleandoc(type(source).__doc__ or "")
    if takes_file(source):
        return {"type": ["string", "null"], "description": said}
    if not _is_describable(kind):
        return {"description": said}
    prefix = re.sub(r"[^\w.-]", lambda found: f"_{ord(found[0]):x}_", source.name, flags=re.ASCII)
    (schema,), needed = _components([kind], REF.format(name=prefix + ".{name}"))
    if kind == list[Example]:
        schema["maxItems"] = limits.rows
        label = {"type": "string", "minLength": 1, "maxLength": limits.label_chars}
        row = needed["Example"]["properties"]
        row["text"] |= {"minLength": 1, "maxLength": limits.text_chars}
        row["label"] = {"anyOf": [label, NULL], "default": None}
        row["labels"] = {"anyOf": [{"type": "array", "items": label, "uniqueItems": True}, NULL], "default": None}
    components |= {f"{prefix}.{name}": component for name, component in needed.items()}
    return {"anyOf": [schema, NULL], "description": said}


def _is_describable(kind: Any) -> bool:
    """Whether msgspec can describe a type; a plugin may decode to one that it cannot."""
    try:
        msgspec.json.schema_components([kind])
    except TypeError:
        return False
    return True


def _components(kinds: Iterable[Any], ref: str = REF) -> tuple[list[Schema], dict[str, Schema]]:
    found = msgspec.json.encode(msgspec.json.schema_components(kinds, ref_template=ref)).decode()
    schemas, components = msgspec.json.decode(GENERIC_PAGE.sub(r"\1Page", found))
    for component in components.values():
        if "description" in component:
            component["description"] = inspect.cleandoc(component["description"])
    return schemas, components


def merge(answers: dict[str, Schema], requests: dict[str, Schema]) -> dict[str, Schema]:
    """Return all components; a request's one is renamed where an answer's of the same name says something else."""
    taken = {name: f"{name}Request" for name, schema in requests.items() if answers.get(name, schema) != schema}
    renamed = msgspec.json.encode(requests).decode()
    for name, other in taken.items():
        renamed = renamed.replace(f'"{REF.format(name=name)}"', f'"{REF.format(name=other)}"')
    decoded: dict[str, Schema] = msgspec.json.decode(renamed)
    return answers | {taken.get(name, name): schema for name, schema in decoded.items()}


def body_schema(kind: type[Struct] | str | Schema) -> Schema:
    """Return the reference to a request's component; a schema is returned as it is."""
    if isinstance(kind, dict):
        return kind
    return {"$ref": REF.format(name=kind if isinstance(kind, str) else kind.__name__)}

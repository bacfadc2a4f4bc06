"""Decides what the published description says of the file operations."""

from __future__ import annotations

from typing import Any

from reflexd.api.openapi_operation import LIMIT, STORED, Operation
from reflexd.errors import (
    FileNotFound,
    FilesFull,
    FileTooLarge,
    InvalidRequest,
    RateLimited,
    RouteNotFound,
    UnsupportedEncoding,
)
from reflexd.schemas.files import FileObject
from reflexd.schemas.openai import Deleted, Page
from reflexd.service.uploads import LEAST_EXPIRES_SECONDS, MOST_EXPIRES_SECONDS, PURPOSES

FILES_TAG = {
    "Files": "Training and validation rows, and the inputs and outputs of batches. A key that lacks the scope `train`"
    " sees and uploads those of batches alone."
}

FILE = FileObject(
    id="file-0197c2d4-1c00-7a3b-9f10-5b6c7d8e9f02",
    bytes=512,
    created_at=1_767_225_600,
    filename="tickets.jsonl",
    purpose="fine-tune",
)
UPLOAD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "purpose": {
            "type": "string",
            "enum": list(PURPOSES),
            "description": "What the file is for: `fine-tune` for training_file and validation_file, `batch` for the"
            " input of a batch. A file for a batch goes after 30 days unless `expires_after` says otherwise.",
        },
        "file": {
            "type": "string",
            "contentMediaType": "application/octet-stream",
            "minLength": 1,
            "description": "The content, which must not be empty. It must be sent as a file; its name is kept, and"
            " never used as a path.",
        },
        "expires_after[anchor]": {"type": "string", "const": "created_at"},
        "expires_after[seconds]": {
            "type": "integer",
            "minimum": LEAST_EXPIRES_SECONDS,
            "maximum": MOST_EXPIRES_SECONDS,
            "description": "After how long the file is deleted. With it `expires_after[anchor]` must be given.",
        },
    },
    "dependentRequired": {
        "expires_after[anchor]": ["expires_after[seconds]"],
        "expires_after[seconds]": ["expires_after[anchor]"],
    },
    "required": ["purpose", "file"],
}
FILE_ID = {"file_id": {"description": "The id of a file of yours.", "example": FILE.id}}
# A slash in a file's id makes the path another one, which no route answers.
ONE_FILE = (*STORED, FileNotFound(), RouteNotFound())

FILES: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/files"): Operation(
        id="createFile",
        tag="Files",
        description="What the file holds is checked when it is used. For the purpose `fine-tune` the key must have the"
        " scope `train`.",
        answer=FILE,
        errors=(
            *STORED,
            InvalidRequest("The purpose of an uploaded file must be fine-tune or batch", param="purpose"),
            FilesFull(),
            FileTooLarge(),
            UnsupportedEncoding(),
            RateLimited("The daemon takes as many uploads at once as [files] uploads allows: try again in a moment"),
        ),
        body=UPLOAD,
        body_media="multipart/form-data",
        requests={
            "Rows to train on": {
                "purpose": "fine-tune",
                "file": '{"text": "The amount on the invoice is wrong", "label": "billing"}\n',
            }
        },
    ),
    ("GET", "/v1/files"): Operation(
        id="listFiles",
        tag="Files",
        answer=Page(data=[FILE], first_id=FILE.id, last_id=FILE.id),
        errors=(*STORED, InvalidRequest("limit: Expected `int` <= 10000", param="limit")),
        parameters={
            "limit": LIMIT,
            "after": {"description": "The id of a file of yours: the page begins behind it."},
            "order": {"description": "By creation: `desc` lists the newest first."},
            "purpose": {"description": "Only files of this purpose."},
        },
    ),
    ("GET", "/v1/files/{file_id}"): Operation(
        id="retrieveFile",
        tag="Files",
        answer=FILE,
        errors=ONE_FILE,
        parameters=FILE_ID,
    ),
    ("GET", "/v1/files/{file_id}/content"): Operation(
        id="downloadFile",
        tag="Files",
        answer='{"text": "The amount on the invoice is wrong", "label": "billing"}\n',
        errors=ONE_FILE,
        parameters=FILE_ID,
        media="application/octet-stream",
    ),
    ("DELETE", "/v1/files/{file_id}"): Operation(
        id="deleteFile",
        tag="Files",
        description="Its content goes with the last file that has it.",
        answer=Deleted(id=FILE.id, object="file"),
        errors=ONE_FILE,
        parameters=FILE_ID,
    ),
}

"""Decides the file object of /v1/files (spec 3.4): what the official SDK needs of it in strict mode."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class FileObject(Struct, kw_only=True):
    """An uploaded or made file; `created_at` and `expires_at` are unix seconds, and `expires_at` null means never."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Literal["fine-tune", "batch", "batch_output", "fine-tune-results"]
    status: Literal["processed"] = "processed"
    status_details: None = None

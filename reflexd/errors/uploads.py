"""Decides how an upload, or a file that another request names, is refused."""

from __future__ import annotations

from reflexd.errors.answers import InvalidRequest


class NamedFileNotFound(InvalidRequest):
    """No file of yours has this id: upload it first, with POST /v1/files.

    A 400 and not a 404: it is the request that names the file which is wrong, not its address.
    """

    code = "file_not_found"


class TooManyModels(InvalidRequest):
    """The batch names more different models than [batches] models allows: send it in parts."""

    code = "too_many_models"


class FileTooLarge(InvalidRequest):
    """The file is larger than [files] max_bytes allows."""

    status = 413
    code = "file_too_large"


class FilesFull(InvalidRequest):
    """With one more file yours would be more than [files] tenant_bytes or files_per_tenant allows: delete some."""

    code = "file_quota_exceeded"

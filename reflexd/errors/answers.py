"""Decides every way to answer no: one class a kind, with its HTTP status, OpenAI error type and code.

The first paragraph of a class's docstring is its default message, so the sentence a user reads stands where the kind is
defined. Sources: spec section 1.10 (statuses and codes) and 3.6 (which statuses the OpenAI SDK retries by itself).
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar


class ReflexError(Exception):
    """The daemon could not serve this request."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    code: ClassVar[str | None] = "internal_error"
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        default = inspect.cleandoc(self.__doc__ or "").split("\n\n", 1)[0].replace("\n", " ")
        self.message = message or default
        self.param = param
        super().__init__(self.message)

    def body(self) -> dict[str, dict[str, Any]]:
        """Return the OpenAI error envelope, ready for JSON."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(ReflexError):
    """The request is not valid."""

    status = 400
    type = "invalid_request_error"
    code: ClassVar[str | None] = None


class InvalidJSON(InvalidRequest):
    """The request body is not valid JSON."""

    code = "invalid_json"


class ContextLengthExceeded(InvalidRequest):
    """The text is longer than the model can read."""

    code = "context_length_exceeded"


class NotSupportedYet(InvalidRequest):
    """This field is part of the API, but this version of reflexd cannot act on it yet."""

    code = "not_supported"


class BaseModelNotFound(InvalidRequest):
    """There is no trained model of yours and no default Reflex of this name to start from."""

    code = "base_model_not_found"


class BaseModelIncompatible(InvalidRequest):
    """This model cannot be started from: it was trained in another way than this daemon trains."""

    code = "base_model_incompatible"


class LLMNotConfigured(InvalidRequest):
    """This input needs a local LLM, and none is set up on this machine."""

    code = "llm_not_configured"


class IdempotencyKeyReused(InvalidRequest):
    """This Idempotency-Key was sent before with another request body."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(param="Idempotency-Key")


class JobNotPausable(InvalidRequest):
    """Only a queued or running job can be paused."""

    code = "job_not_pausable"


class JobNotResumable(InvalidRequest):
    """Only a job that is paused, or that rests at `prepared`, can be resumed."""

    code = "job_not_resumable"


class JobNotPrepared(InvalidRequest):
    """Training can be started only for a job that rests at `prepared`: one created with auto_train: false."""

    code = "job_not_prepared"


class RowsGone(ReflexError):
    """This job has no prepared rows: they are not made yet, or were removed when it was cancelled."""

    status = 404
    type = "invalid_request_error"
    code = "rows_not_found"


class JobNotCancellable(InvalidRequest):
    """The job has already ended, so there is nothing to cancel.

    A 400 and not a 409: the SDK would retry a 409 twice (spec 3.6).
    """

    code = "job_not_cancellable"


class BatchNotCancellable(InvalidRequest):
    """The batch has already ended, so there is nothing to cancel."""

    code = "batch_not_cancellable"


class EndpointLimit(InvalidRequest):
    """There are as many webhook endpoints as are allowed."""

    code = "webhook_endpoint_limit"


class EndpointUnreachable(InvalidRequest):
    """The endpoint was not reached.

    A 400 and not a 502: the SDK would send the test twice more.
    """

    code = "webhook_endpoint_unreachable"


class InvalidFile(InvalidRequest):
    """The file cannot be used for this."""

    code = "invalid_file"


class AuthenticationFailed(ReflexError):
    """No valid API key was given: send it as "Authorization: Bearer rfx_...".

    One message for a missing, a wrong and a revoked key, so that an answer tells nothing about the keys that exist.
    """

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    headers: ClassVar[dict[str, str]] = {"www-authenticate": "Bearer"}


class InsufficientScope(ReflexError):
    """This API key lacks the scope that the request needs."""

    status = 403
    type = "permission_error"
    code = "insufficient_scope"


class OriginNotAllowed(ReflexError):
    """Pages of other sites may not call this server: [http] allowed_hosts names the hosts whose pages may."""

    status = 403
    type = "permission_error"
    code = "origin_not_allowed"


class RouteNotFound(InvalidRequest):
    """There is no such route: see /v1/fine_tuning/jobs, /v1/models and /v1/reflex/predict."""

    status = 404
    code = "unknown_url"


class JobNotFound(InvalidRequest):
    """No fine-tuning job of yours has this id.

    The message repeats no id: an unknown job and another tenant's job get the same bytes.
    """

    status = 404
    code = "job_not_found"


class ModelNotFound(InvalidRequest):
    """No model of yours has this name."""

    status = 404
    code = "model_not_found"


class FileNotFound(InvalidRequest):
    """No file of yours has this id."""

    status = 404
    code = "file_not_found"


class BatchNotFound(InvalidRequest):
    """No batch of yours has this id."""

    status = 404
    code = "batch_not_found"


class EndpointNotFound(InvalidRequest):
    """No webhook endpoint of yours has this id."""

    status = 404
    code = "webhook_endpoint_not_found"


class DeliveryNotFound(InvalidRequest):
    """No webhook delivery of yours has this id."""

    status = 404
    code = "webhook_delivery_not_found"


class MethodNotAllowed(InvalidRequest):
    """This route does not answer this method."""

    status = 405
    code = "method_not_allowed"


class RequestAborted(InvalidRequest):
    """The connection was closed before the request body was whole.

    Nobody is left to read it; it keeps a hang-up out of the log of failures.
    """

    code = "request_aborted"


class RequestTimeout(InvalidRequest):
    """The request body did not arrive in time."""

    status = 408
    code = "request_timeout"


class ModelNotReady(InvalidRequest):
    """This model has no trained version yet: its job is still queued or running."""

    status = 409
    code = "model_not_ready"
    headers: ClassVar[dict[str, str]] = {"x-should-retry": "false"}


class BaseModelNotReady(InvalidRequest):
    """The model to start from has no trained version yet: its job is still queued or running."""

    status = 409
    code = "base_model_not_ready"
    headers: ClassVar[dict[str, str]] = {"x-should-retry": "false"}


class BatchNotReady(InvalidRequest):
    """This batch has not ended yet: ask for its results once its status is completed."""

    status = 409
    code = "batch_not_ready"
    headers: ClassVar[dict[str, str]] = {"x-should-retry": "false"}


class BodyTooLarge(InvalidRequest):
    """The request body is larger than [http] max_body_bytes allows."""

    status = 413
    code = "request_too_large"


class UnsupportedEncoding(InvalidRequest):
    """The request body must come as it is: a Content-Encoding such as gzip is not supported.

    What is never decompressed cannot be a bomb. The header is RFC 9110's (12.5.3).
    """

    status = 415
    code = "unsupported_encoding"
    headers: ClassVar[dict[str, str]] = {"accept-encoding": "identity"}


class MisdirectedRequest(InvalidRequest):
    """The Host header names no host that this server answers for: [http] allowed_hosts adds a name.

    The message repeats no header: whoever is led here by a foreign name learns nothing by it.
    """

    status = 421
    code = "host_not_allowed"


class ModelUnusable(ReflexError):
    """This model's files cannot be used: train it again, or ask the operator."""

    code = "model_unusable"


class HeadTooLarge(InvalidRequest):
    """The request line and headers are larger than 64 KB."""

    status = 431
    code = "request_header_too_large"


class RateLimited(ReflexError):
    """Too many requests are waiting: try again in a moment."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limited"
    headers: ClassVar[dict[str, str]] = {"retry-after": "1"}


class Unavailable(ReflexError):
    """The daemon is starting or stopping: try again in a moment."""

    status = 503
    type = "service_unavailable_error"
    code = "service_unavailable"
    headers: ClassVar[dict[str, str]] = {"retry-after": "2"}


class StorageFull(Unavailable):
    """The data directory cannot be written to at present: is the disk full?"""

    code = "storage_unavailable"
    headers: ClassVar[dict[str, str]] = {"retry-after": "30"}

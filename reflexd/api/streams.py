"""Decides how server-sent events leave by a handler that may answer with JSON instead."""

from __future__ import annotations

from typing import Any

from litestar.response import ServerSentEvent
from litestar.response.base import ASGIResponse


class EventStream(ServerSentEvent):
    """A stream that is sent as what it is.

    Of a handler with two kinds of answers the framework takes both for JSON, whatever the answer's own type says.
    """

    def to_asgi_response(self, *given: Any, **named: Any) -> ASGIResponse:
        """Return the response with the stream's media type, not the handler's."""
        return super().to_asgi_response(*given, **{**named, "media_type": self.media_type})

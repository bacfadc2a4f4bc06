"""Decides how one webhook is sent once: signed anew by Standard Webhooks, through the transport of its URL's scheme."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence

import structlog
from msgspec import Struct

from reflexd import __version__
from reflexd.egress.door import Door
from reflexd.errors import NotAllowedOut, Unreachable
from reflexd.hookspecs import Reply, WebhookTransport

SECRET_PREFIX = "whsec_"  # noqa: S105 - it is how a secret begins
log = structlog.get_logger(__name__)


class Attempt(Struct, frozen=True):
    """What came of sending: the receiver's status, or why there is none."""

    status: int | None
    error: str | None = None
    retry_after: str = ""

    @property
    def delivered(self) -> bool:
        """Whether the receiver has taken it: any 2xx, and nothing else."""
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """Sends webhooks through the registered transports."""

    def __init__(self, transports: Mapping[str, WebhookTransport], door: Door, seconds: float) -> None:
        """`seconds` is how long an attempt may take in all, resolving the name included."""
        self._transports = transports
        self._door = door
        self._seconds = seconds

    def check_url(self, url: str) -> None:
        """Raise NotAllowedOut for a URL that no transport takes, or that the door never opens for."""
        scheme = url.partition(":")[0].lower()
        if scheme in ("http", "https"):
            self._door.policy.check_url(url)
        if scheme not in self._transports:
            raise NotAllowedOut(f"it must begin with one of {', '.join(sorted(self._transports))}, as in https://host/")

    async def send(self, url: str, event_id: str, body: bytes, secrets: Sequence[str], now: float) -> Attempt:
        """Send a body once; whatever goes wrong is in the Attempt."""
        headers = {
            "content-type": "application/json",
            "user-agent": f"reflexd/{__version__}",
            "webhook-id": event_id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": signatures(event_id, int(now), body, secrets),
        }
        try:
            transport = self._transports[url.partition(":")[0].lower()]
            async with asyncio.timeout(self._seconds):
                reply: Reply = await transport.deliver(url, body, headers, self._door.post)
            if not isinstance(reply.status, int) or not 100 <= reply.status <= 599:
                return Attempt(None, "the transport gave no status")
            return Attempt(reply.status, None, str(reply.retry_after))
        except KeyError:
            return Attempt(None, "no plugin delivers to URLs of this kind any more")
        except TimeoutError:
            return Attempt(None, f"no answer within {self._seconds:g} seconds")
        except NotAllowedOut as error:
            return Attempt(None, f"not allowed: {error}")
        except Unreachable as error:
            return Attempt(None, f"unreachable: {error}")
        except Exception as error:  # a stranger's transport; its words may hold what is nobody's business
            log.warning("webhook transport failed", exc_info=error)
            return Attempt(None, f"the transport failed: {type(error).__name__}")


def signatures(event_id: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> str:
    """Return the header with one signature a secret: HMAC-SHA256 over id, time and body (Standard Webhooks 1.0.0)."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    made = (hmac.digest(base64.b64decode(one.removeprefix(SECRET_PREFIX)), signed, hashlib.sha256) for one in secrets)
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in made)

"""Decides how webhooks reach http and https URLs: one POST through the guarded way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from reflexd import Post, Reply, WebhookTransport, hookimpl


class OverHTTP:
    """The transport of one of the two schemes."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme

    async def deliver(self, url: str, body: bytes, headers: Mapping[str, str], post: Post) -> Reply:
        """Send the body and return the receiver's answer."""
        return await post(url, body, headers)


@hookimpl
def register_webhook_transports(register: Callable[[WebhookTransport], None]) -> None:
    """Offer https, and http for receivers that the operator lists."""
    for scheme in ("https", "http"):
        register(OverHTTP(scheme))

"""Decides what a plugin author may import from reflexd: these names and nothing else.

    from reflexd import DataSource, Example, hookimpl

Names are loaded on first use, so that `reflexd --help` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reflexd.hookspecs import (
        BY_USER,
        LLM,
        Checkpoint,
        DataSource,
        DefaultReflex,
        Embed,
        Example,
        Executor,
        ExecutorOptions,
        InputFile,
        InvalidInput,
        LLMAnswer,
        LLMRequest,
        MadeRow,
        Post,
        Reply,
        SourceContext,
        WebhookTransport,
        hookimpl,
    )

__version__ = "0.1.0"

__all__ = [
    "BY_USER",
    "LLM",
    "Checkpoint",
    "DataSource",
    "DefaultReflex",
    "Embed",
    "Example",
    "Executor",
    "ExecutorOptions",
    "InputFile",
    "InvalidInput",
    "LLMAnswer",
    "LLMRequest",
    "MadeRow",
    "Post",
    "Reply",
    "SourceContext",
    "WebhookTransport",
    "__version__",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'reflexd' has no attribute {name!r}")
    from reflexd import hookspecs

    return getattr(hookspecs, name)

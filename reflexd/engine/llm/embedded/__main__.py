"""Decides how the embedded server starts and ends: it listens at once, serves once the model worked, ends with us."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

import msgspec
import uvicorn

from reflexd.engine.lifeline import end_with_parent, give_way
from reflexd.engine.llm.embedded import KEY, EmbeddedSpec
from reflexd.engine.llm.embedded.http import Application
from reflexd.errors import StartupError

CONFIGURATION = 78
"""The exit status when the directory holds no model that is served here."""


def main() -> None:
    """Serve what the command line names until the parent ends."""
    spec = msgspec.json.decode(sys.argv[1], type=EmbeddedSpec)
    key = os.environ.pop(KEY, "")
    if not key:
        sys.exit(f"{KEY} is not set")
    end_with_parent()
    give_way(spec.nice)
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    # Two threads that wait for each other by spinning take from a busy machine what they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    application = Application(spec.name, key)
    threading.Thread(target=_compute, args=(spec, application), name="engine", daemon=True).start()
    uvicorn.run(
        application,
        host="127.0.0.1",
        port=spec.port,
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
    )


def _compute(spec: EmbeddedSpec, application: Application) -> None:
    """Load the model, and compute in this thread: threads of torch are counted by the thread that asks them."""
    from reflexd.engine.llm.embedded import engine

    try:
        ready = engine.open_engine(spec)
    except StartupError as error:
        _end(str(error), CONFIGURATION)
    except Exception as error:  # whatever the files of strangers make the libraries raise
        said = " ".join(str(error).split())[:300]
        _end(f"the language model cannot be loaded: {said or type(error).__name__}", engine.fatal(error) or 1)
    application.engine = ready
    try:
        ready.run()
    except Exception:  # ours, since the model's failures cost a row only: nobody would be answered any more
        _end("the language model ends: its engine failed", 1)


def _end(why: str, status: int) -> NoReturn:
    print(why, file=sys.stderr, flush=True)  # noqa: T201 - the daemon keeps what its children write
    os._exit(status)


if __name__ == "__main__":
    main()

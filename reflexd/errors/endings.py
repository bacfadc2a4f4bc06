"""Decides what ends a job, an attempt to reach somebody, a training process or the daemon, with which exit code."""

from __future__ import annotations

from typing import ClassVar


class JobFailure(Exception):
    """A training job ends as failed, with the triple that its `error` field shows."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.code = code
        self.message = message
        self.param = param
        super().__init__(message)


class LLMFailed(JobFailure):
    """The local LLM cannot be had; `why` is for the operator, for it may hold what a job's owner is not to see."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__("llm_failed", "The local LLM cannot be started; `reflexd llm status` tells the operator why")


class NotAllowedOut(Exception):
    """This URL or address may not be reached from here; the message says why, after the URL's name."""


class Unreachable(Exception):
    """Nothing at this URL answers as it should."""


class ExecutorUnavailable(Exception):
    """No training process can be started at present, which is no fault of the job that asked for one."""


class WorkerDied(Exception):
    """The training process ended on its own, without saying how its job ended."""


# --- the end of a process -------------------------------------------------------------------------------------------


class StartupError(Exception):
    """The daemon cannot start as configured; the message is the one sentence the operator reads.

    Exit status 78 (EX_CONFIG): restarting changes nothing, so the systemd unit does not try.
    """

    exit_code: ClassVar[int] = 78


class AlreadyRunning(StartupError):
    """Another reflexd holds this data directory."""

    exit_code = 75


class CannotStartNow(StartupError):
    """What prevents the start may pass (an address in use, a full disk), so a service manager may try again."""

    exit_code = 1


class BackboneRefused(Exception):
    """A sentence encoder is not added or not removed; the message is the one sentence the operator reads."""


class LanguageModelRefused(Exception):
    """A language model is not installed, imported, removed or started; the message is what the operator reads."""


class ServerUnreachable(Exception):
    """A client verb found no daemon to talk to."""

    exit_code: ClassVar[int] = 69

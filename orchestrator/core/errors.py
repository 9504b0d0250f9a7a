"""Errors, sorted by who can act on them. An expected no is a value; these are broken promises."""

from __future__ import annotations

from enum import StrEnum

from orchestrator.core.engine_words import known_words


class OrchestratorError(Exception):
    """Base of every error this package raises on purpose; its text is fit for a user's eyes.

    `quoted`: what a far side said, which may hold words of somebody's call: a part of the text, and not of `in_log`.
    """

    quoted = ""

    @property
    def in_log(self) -> str:
        """The error as anybody may read it, whoever's call it was about."""
        return str(self)


class SettingsError(OrchestratorError):
    """The operator's configuration is wrong; the text names file, line and field."""


class CallerError(OrchestratorError):
    """The caller can act, with another request. `status` is the HTTP status, `kind` OpenAI's error type, `there` what
    could have been asked for instead."""

    there: tuple[str, ...] = ()

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind

    @property
    def in_log(self) -> str:
        """Its text is about the request, and may quote it."""
        return f"refused with {self.status} ({self.kind})"


class CapacityError(OrchestratorError):
    """The caller can act later: the queue is full, or no slot came free in time.

    `is_passing`: no instance serves at this moment, and one may be back before the caller asks again.
    """

    def __init__(self, message: str, retry_after_s: int, status: int = 503, *, is_passing: bool = False) -> None:
        super().__init__(message)
        self.is_passing = is_passing
        self.message = message
        self.retry_after_s = retry_after_s
        self.status = status


class InstanceError(OrchestratorError):
    """An instance did not answer as promised.

    `answered`: bytes of its answer already went to the client. `is_unreachable`: it did not even take the connection.
    `is_hung`: it took the call and was silent, while others of its pool answered. `quoted`: what it said to that.
    `status`: what it answered in place of an answer; `retry_after_s`: for how long it wants no calls, by its own word.
    """

    def __init__(
        self,
        instance: str,
        message: str,
        *,
        answered: bool = False,
        is_unreachable: bool = False,
        is_hung: bool = False,
        quoted: str = "",
        status: int = 0,
        retry_after_s: float = 0.0,
    ) -> None:
        self.said, self.quoted = message, quoted
        self.status, self.retry_after_s = status, retry_after_s
        self.message = f"{message}: {quoted}" if message and quoted else message or quoted
        super().__init__(f"{instance}: {self.message}")
        self.instance = instance
        self.answered = answered
        self.is_unreachable = is_unreachable
        self.is_hung = is_hung

    @property
    def in_log(self) -> str:
        """Of what the instance said, as much as is known to be an engine's own words."""
        if not self.quoted:
            return str(self)
        said = self.said or "it failed"
        words = known_words(self.quoted) or "in words that may be a caller's"
        return f"{self.instance}: {said}: {words}"


class StoreError(OrchestratorError):
    """Redis did not answer. The operator can act; calls already leased run on."""


class Barrier(StrEnum):
    """What nobody got past on the way to work on a host, as in: it cannot be …"""

    REACHED = "reached"
    TRUSTED = "trusted by its host key"
    LOGGED_IN = "logged in to"
    SUDO = "worked on with sudo"
    USED = "worked with"  # whoever logged in came so far, and something there is not as it must


class HostError(OrchestratorError):
    """A host, a process on it or its driver is not as it should be; the text says what to do."""

    barrier = Barrier.USED

"""Errors, sorted by who can act on them. An expected no is a value; these are broken promises."""

from __future__ import annotations


class OrchestratorError(Exception):
    """Base of every error this package raises on purpose; its text is fit for a user's eyes."""


class SettingsError(OrchestratorError):
    """The operator's configuration is wrong; the text names file, line and field."""


class CallerError(OrchestratorError):
    """The caller can act, with another request. `status` is the HTTP status, `kind` OpenAI's error type."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind


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
    `is_hung`: it took the call and was silent, while others of its pool answered.
    """

    def __init__(
        self,
        instance: str,
        message: str,
        *,
        answered: bool = False,
        is_unreachable: bool = False,
        is_hung: bool = False,
    ) -> None:
        super().__init__(f"{instance}: {message}")
        self.instance = instance
        self.message = message
        self.answered = answered
        self.is_unreachable = is_unreachable
        self.is_hung = is_hung


class StoreError(OrchestratorError):
    """Redis did not answer. The operator can act; calls already leased run on."""


class HostError(OrchestratorError):
    """A host, a process on it or its driver is not as it should be; the text says what to do."""

"""The few ways a verb says no.

A verb raises one of these words; only the edges turn them into an HTTP status, a form message or an
exit code. Messages are shown to people and programs: never put item content or a secret into one.
"""

from __future__ import annotations

from typing import TypedDict


class Fault(TypedDict):
    """One thing wrong with what was sent: where (a JSON pointer or a form field) and how to mend it."""

    pointer: str
    message: str


class Refusal(Exception):
    """What every refusal carries: a stable `code` for programs and a `message` for people."""

    code = "refused"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class Invalid(Refusal):
    """What was sent cannot be accepted as it is; `errors` names each place and its remedy."""

    code = "invalid"

    def __init__(
        self,
        message: str,
        code: str | None = None,
        *,
        field: str | None = None,
        errors: list[Fault] | None = None,
    ) -> None:
        super().__init__(message, code)
        if errors is None:
            errors = [{"pointer": field, "message": message}] if field is not None else []
        self.errors: list[Fault] = errors


class Missing(Refusal):
    """Not there, or not the asker's to know about: the two are told apart to nobody."""

    code = "not_found"


class Forbidden(Refusal):
    """Who asks is known and may not do this."""

    code = "forbidden"


class Conflict(Refusal):
    """Somebody or something was there first; the message says what now holds."""

    code = "conflict"


class LeaseLost(Conflict):
    """The claim was given up or taken over; what was typed is kept with the claim."""

    code = "lease_lost"


class AlreadyDecided(Conflict):
    """The item has its decision; the second one changes nothing."""

    code = "already_decided"


class Busy(Refusal):
    """Cannot be done now; worth trying again in `retry_after` seconds."""

    code = "busy"

    def __init__(self, message: str, code: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(message, code)
        self.retry_after = retry_after

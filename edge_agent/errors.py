"""Errors by what the operator can do about them.

Each class carries the process exit code and a stable `code` (letters and digits, used in logs, metrics and
documentation). A message is three short parts: *what* happened, *why*, and *try*: what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class EdgeAgentError(Exception):
    """Base of every error that reaches a person.

    Args:
        what: one sentence, what happened.
        why: the evidence (a peer's words, a value, a path).
        try_: what the reader can do; a command where there is one.
        code: stable identifier such as ``CFG_UNKNOWN_KEY``.
    """

    exit_code: ClassVar[int] = 1
    default_code: ClassVar[str] = "ERROR"

    def __init__(self, what: str, *, why: str = "", try_: str = "", code: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.try_ = try_
        self.code = code or self.default_code

    def __str__(self) -> str:
        """The whole message, one line a part."""
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.try_:
            lines.append(f"  try: {self.try_}")
        return "\n".join(lines)


class UsageError(EdgeAgentError):
    """The command line was off."""

    exit_code = 2
    default_code = "USAGE"


class ConfigError(EdgeAgentError):
    """The configuration has to be mended."""

    exit_code = 3
    default_code = "CFG"


class InstrumentUnreachable(EdgeAgentError):
    """The instrument did not answer; the adapter keeps trying."""

    exit_code = 4
    default_code = "INSTRUMENT"


class TargetUnreachable(EdgeAgentError):
    """A target did not answer or answered with a passing fault; retried with back-off."""

    exit_code = 5
    default_code = "TARGET"


class PermissionRefused(EdgeAgentError):
    """Somebody has to grant something: a token, a certificate, a file mode."""

    exit_code = 6
    default_code = "PERMISSION"


class IntegrityError(EdgeAgentError):
    """Bytes are not what they should be. Nothing is deleted; the item goes to quarantine."""

    exit_code = 7
    default_code = "INTEGRITY"


class DiskError(EdgeAgentError):
    """The disk is full or failing."""

    exit_code = 8
    default_code = "DISK"


class PolicyRefused(PermissionRefused):
    """`may_send()` said no: the label does not allow this destination."""

    default_code = "POLICY"

"""How a landing service says no, and which error that is for the agent.

A refusal has a stable code, a sentence, the evidence and what to do: as JSON in the body of an HTTPS answer, as a
CBOR array inside an answer over MQTT.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from edge_agent.errors import EdgeAgentError, IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.seal.cbor import SealError


class Code(StrEnum):
    """Why something was refused. Stable: used in logs, metrics and documentation."""

    NO_CERTIFICATE = "NO_CERTIFICATE"  # no client certificate, or none for an agent
    UNKNOWN_AGENT = "UNKNOWN_AGENT"  # a good certificate, but this service does not know the agent
    REVOKED = "REVOKED"  # the agent was shut out: its identity key may be stolen
    WRONG_AGENT = "WRONG_AGENT"  # the message speaks for another agent than its sender
    PROJECT = "PROJECT"  # the agent was not enrolled for that project
    TOKEN = "TOKEN"  # noqa: S105 - one-time token unknown, used or expired
    AGENT_TAKEN = "AGENT_TAKEN"  # the agent id belongs to another identity key
    BAD_REQUEST = "BAD_REQUEST"  # not what the protocol says
    BAD_NAME = "BAD_NAME"  # a name or path that is not stored
    NOT_FOUND = "NOT_FOUND"  # no such upload, run or route
    OFFSET = "OFFSET"  # the piece does not begin where the stored bytes end
    BUSY = "BUSY"  # another request is writing the same upload
    TOO_LARGE = "TOO_LARGE"  # more bytes than were announced or than is allowed
    DIGEST = "DIGEST"  # the stored bytes have another SHA-256 than was claimed
    NO_DIGEST = "NO_DIGEST"  # finished without saying the SHA-256
    SEGMENT = "SEGMENT"  # the segment does not verify
    FACTS = "FACTS"  # the segment verifies but is not the one that was announced
    CLASH = "CLASH"  # the path is taken by other bytes
    FULL = "FULL"  # the disk is full
    QUOTA = "QUOTA"  # the project has used its share
    SIGNATURE = "SIGNATURE"  # a signature or key chain does not hold
    FORK = "FORK"  # a smaller or forked log
    LOG_SIZE = "LOG_SIZE"  # the proof begins at another size than was witnessed last
    LOG_RESTART = "LOG_RESTART"  # the owner approved a new log: begin one
    TROUBLE = "TROUBLE"  # the service itself is in trouble; try again


_PASSING = frozenset({Code.OFFSET, Code.BUSY, Code.FULL, Code.TROUBLE, Code.NOT_FOUND, Code.NO_DIGEST})
_INTEGRITY = frozenset({Code.DIGEST, Code.SEGMENT, Code.FACTS, Code.CLASH, Code.FORK, Code.BAD_NAME, Code.BAD_REQUEST})


class LogSizeDiffers(TargetUnreachable):
    """The service witnessed this log last at ``size`` leaves (0: never); ask again with a proof from there."""

    default_code = "LANDING_LOG_SIZE"

    def __init__(self, size: int, refusal: Refusal, target: str) -> None:
        super().__init__(f"{target}: {refusal.what}", why=refusal.why, try_=refusal.try_)
        self.size = size


class LogRestartApproved(TargetUnreachable):
    """The log is refused for good, and the owner approved that the agent goes on in a new one."""

    default_code = "LANDING_LOG_RESTART"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A no: ``have`` is the offset or log size that the service has, where that helps."""

    code: Code
    what: str
    why: str = ""
    try_: str = ""
    have: int | None = None

    def to_json(self) -> str:
        """The body of an HTTPS answer: ``{"code", "what", "why", "try", "have"}``."""
        parts = asdict(self)
        parts["try"] = parts.pop("try_")
        return json.dumps(parts, ensure_ascii=False)

    def value(self) -> list[Any]:
        """The array inside a CBOR answer."""
        return [str(self.code), self.what, self.why, self.try_, self.have]

    def error(self, target: str) -> EdgeAgentError:
        """What the agent raises: passing faults, faults of the bytes, or missing permission."""
        if self.code is Code.LOG_SIZE:
            return LogSizeDiffers(self.have or 0, self, target)
        if self.code is Code.LOG_RESTART:
            return LogRestartApproved(f"{target}: {self.what}", why=self.why, try_=self.try_)
        kind: type[EdgeAgentError] = PermissionRefused
        if self.code in _PASSING:
            kind = TargetUnreachable
        elif self.code in _INTEGRITY:
            kind = IntegrityError
        return kind(f"{target}: {self.what}", why=self.why, try_=self.try_, code=f"LANDING_{self.code}")


def from_json(body: str) -> Refusal | None:
    """The refusal in an HTTPS answer; None when the body is something else (a proxy's page, a crash)."""
    try:
        parts = json.loads(body)
        have = parts["have"]
        return Refusal(Code(parts["code"]), str(parts["what"]), str(parts["why"]), str(parts["try"]), None if have is None else int(have))
    except (ValueError, KeyError, TypeError):
        return None


def from_value(value: Any) -> Refusal:
    """The refusal in a decoded CBOR array.

    Raises:
        SealError: not a refusal.
    """
    try:
        code, what, why, try_, have = value
        return Refusal(Code(code), str(what), str(why), str(try_), None if have is None else int(have))
    except (TypeError, ValueError) as error:
        raise SealError(f"refusal: {error}") from error


class Refused(EdgeAgentError):
    """Raised inside a landing service; its doors turn it into their form of answer."""

    default_code = "REFUSED"

    def __init__(self, code: Code, what: str, *, why: str = "", try_: str = "", have: int | None = None) -> None:
        super().__init__(what, why=why, try_=try_, code=code)
        self.refusal = Refusal(code, what, why, try_, have)

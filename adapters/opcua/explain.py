"""Says in words why a server did not let us in, and what to do. Pure but for the clock and our own certificate."""

from __future__ import annotations

from datetime import UTC, datetime

from asyncua import ua

from adapters.opcua.config import OpcUaConfig
from adapters.opcua.connection import ClockSkewed
from adapters.opcua.security import NotOffered, NotTrusted, load_certificate, validity
from edge_agent.errors import EdgeAgentError, InstrumentUnreachable, PermissionRefused

_TIME = (
    "BadCertificateTimeInvalid",
    "BadCertificateIssuerTimeInvalid",
    "BadInvalidTimestamp",
    "BadNonceInvalid",
    "BadTimestampNotSupported",
)
_TRUST = (
    "BadCertificate",
    "BadSecurityChecksFailed",
    "BadSecurityPolicyRejected",
    "BadSecurityModeRejected",
    "BadApplicationSignatureInvalid",
)
_USER = ("BadUserAccessDenied", "BadIdentityTokenRejected", "BadIdentityTokenInvalid", "BadUserSignatureInvalid")


def status_name(error: BaseException) -> str:
    """The OPC-UA name of a failure, as ``BadCertificateUntrusted``; empty for others."""
    return type(error).__name__ if isinstance(error, ua.UaStatusCodeError) else ""


def reason(error: BaseException, config: OpcUaConfig) -> str:
    """One line for the status: why the connection failed or ended."""
    if isinstance(error, EdgeAgentError):
        return error.what + (f" ({error.why})" if error.why else "")
    if isinstance(error, ClockSkewed):
        where = "ahead of" if error.ahead_s > 0 else "behind"
        return f"the server's clock is {_span(error.ahead_s)} {where} this machine's, and it refuses the connection ({error})"
    name = status_name(error)
    if name:
        return f"the server says {name}"
    if isinstance(error, TimeoutError):
        return f"{config.endpoint} accepts connections or packets but did not answer within {config.timeout:g} s"
    return str(error) or type(error).__name__


def explain(error: BaseException, instrument: str, config: OpcUaConfig) -> EdgeAgentError:
    """The error for people: what, why, what to do."""
    if isinstance(error, EdgeAgentError):
        return error
    what = f"{instrument}: no connection to {config.endpoint}"
    why = reason(error, config)
    name = status_name(error)
    secured = config.security != "None"
    if isinstance(error, ClockSkewed):
        return PermissionRefused(what, why=why, try_="set both clocks by the same time server (NTP)", code="OPCUA_CLOCK")
    if isinstance(error, NotTrusted):
        return PermissionRefused(what, why=why, try_=_trust_hint(error, config), code="OPCUA_UNTRUSTED")
    if name.startswith(_TIME) or (secured and _own_validity(config)):
        return PermissionRefused(what, why="; ".join(filter(None, (why, _own_validity(config)))), try_=_clock_hint(), code="OPCUA_CLOCK")
    if name.startswith(_TRUST) or (secured and _slammed(error)):
        own = config.certificate or config.identity / "own.pem"
        trust = f"have the server trust {own}" if secured else f"set security =, then edge-agent trust {config.endpoint}"
        return PermissionRefused(what, why=why, try_=f"{trust}; if it does already: {_clock_hint()}", code="OPCUA_CERTIFICATE")
    if name.startswith(_USER):
        if config.user_certificate is not None:
            who = f"that the server knows the user of {config.user_certificate}"
        elif config.user is not None:
            who = f"user {config.user!r} and {config.password_file}"
        else:
            who = "user = and password_file =, which the server wants"
        return PermissionRefused(what, why=why, try_=f"check {who}", code="OPCUA_USER")
    if isinstance(error, NotOffered):
        return InstrumentUnreachable(what, why=why, try_="choose one that it offers")
    return InstrumentUnreachable(
        what, why=why, try_="check that the server runs, that the address and port are right, and that no firewall is between"
    )


def _trust_hint(error: NotTrusted, config: OpcUaConfig) -> str:
    if config.server_certificate is not None:
        return f"check that {config.server_certificate} is the server's certificate"
    hint = f"edge-agent trust {config.endpoint}"
    return f"if its certificate was renewed: {hint}" if error.pinned else hint


def _span(seconds: float) -> str:
    whole = round(abs(seconds))
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    return " ".join(f"{n} {unit}" for n, unit in parts if n)


def _clock_hint() -> str:
    return f"compare the clocks of both machines (this one says {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC) and the certificates' dates"


def _own_validity(config: OpcUaConfig) -> str:
    if config.certificate is None:
        return ""
    wrong = validity(load_certificate(config.certificate))
    return f"{config.certificate}: {wrong}" if wrong else ""


def _slammed(error: BaseException) -> bool:
    """Whether the door was shut without a reason, as servers do when they do not like a certificate."""
    hung_up = isinstance(error, ConnectionError) and not isinstance(error, (ConnectionRefusedError, NotOffered))
    return hung_up or status_name(error).startswith("BadTcp")

"""Says in words why a server did not let us in, and what to do. Pure but for the clock and our own certificate."""

from __future__ import annotations

from datetime import UTC, datetime

from asyncua import ua

from adapters.opcua.config import OpcUaConfig
from adapters.opcua.security import load_certificate, validity
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
    if name.startswith(_TIME) or (secured and _own_validity(config)):
        return PermissionRefused(what, why="; ".join(filter(None, (why, _own_validity(config)))), try_=_clock_hint(), code="OPCUA_CLOCK")
    if name.startswith(_TRUST) or (secured and _slammed(error)):
        trust = f"have the server trust {config.certificate}" if secured else "set security =, certificate = and private_key ="
        pinned = f", check that {config.server_certificate} is the server's" if config.server_certificate else ""
        return PermissionRefused(what, why=why, try_=f"{trust}{pinned}; if it does already: {_clock_hint()}", code="OPCUA_CERTIFICATE")
    if "certificate mismatch" in why or "Server certificate" in why:
        return PermissionRefused(
            what, why=why, try_=f"check that {config.server_certificate} is the server's certificate", code="OPCUA_CERTIFICATE"
        )
    if name.startswith(_USER):
        who = f"user {config.user!r} and {config.password_file}" if config.user else "user = and password_file =, which the server wants"
        return PermissionRefused(what, why=why, try_=f"check {who}", code="OPCUA_USER")
    if "No matching endpoints" in why:
        return InstrumentUnreachable(
            what, why=f"the server does not offer security {config.security} {config.mode}", try_="choose one that it offers"
        )
    return InstrumentUnreachable(
        what, why=why, try_="check that the server runs, that the address and port are right, and that no firewall is between"
    )


def _clock_hint() -> str:
    return f"compare the clocks of both machines (this one says {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC) and the certificates' dates"


def _own_validity(config: OpcUaConfig) -> str:
    if config.certificate is None:
        return ""
    wrong = validity(load_certificate(config.certificate))
    return f"{config.certificate}: {wrong}" if wrong else ""


def _slammed(error: BaseException) -> bool:
    """Whether the door was shut without a reason, as servers do when they do not like a certificate."""
    hung_up = isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)
    return hung_up or status_name(error).startswith("BadTcp")

"""Serial lines: balances, SCPI instruments, and anything else that sends or answers lines over a port or a device server."""

from adapters.serial.adapter import SerialAdapter, Tried, try_parse
from adapters.serial.config import ChannelConfig, SerialConfig
from adapters.serial.outcome import Answer, Outcome, Reading, Unparsed
from adapters.serial.suggest import suggest

__all__ = ["Answer", "ChannelConfig", "Outcome", "Reading", "SerialAdapter", "SerialConfig", "Tried", "Unparsed", "suggest", "try_parse"]

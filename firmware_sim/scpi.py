"""The part of SCPI that instruments share: headers in long and short form, common commands, the error queue.

Source: IEEE 488.2 (common commands) and SCPI-1999, volume 1, chapters 6 and 21. Pure: command lines in, answers out.
Invariants: a header is known by its short form, its long form and nothing between; what cannot be obeyed goes into the
error queue, which holds ten entries, and is not answered.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

NOT_A_NUMBER: Final = "9.91E37"  # SCPI-1999, 7.2.1.5
QUEUE: Final = 10

Handler = Callable[[str], str | None]
"""Takes the parameters as text and returns the answer of a query; raises ScpiError."""


class ScpiError(Exception):
    """A command that cannot be obeyed; `number` and text as in SCPI-1999, chapter 21.8."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class Interpreter:
    """Obeys one command line at a time.

    Args:
        identity: the answer to `*IDN?`: maker, model, serial number, firmware.
        commands: by header with its short form in capitals, as `SOURce:TEMPerature?`.
        reset: what `*RST` does.
    """

    def __init__(self, identity: str, commands: Mapping[str, Handler], reset: Callable[[], None]) -> None:
        self._errors: deque[str] = deque(maxlen=QUEUE)
        self._reset = reset
        common: dict[str, Handler] = {
            "*IDN?": lambda _: identity,
            "*RST": lambda _: reset(),
            "*CLS": lambda _: self._errors.clear(),
            "*OPC?": lambda _: "1",
            "SYSTem:ERRor?": lambda _: self._errors.popleft() if self._errors else '0,"No error"',
        }
        self._commands = {form: handler for header, handler in (common | dict(commands)).items() for form in _forms(header)}

    def knows(self, command: str, header: str) -> bool:
        """Whether the command line has this header, in any of its forms."""
        return _header(command) in _forms(header)

    def obey(self, command: str) -> str | None:
        """Return the answer, None when there is none."""
        _, _, parameters = command.strip().partition(" ")
        handler = self._commands.get(_header(command))
        try:
            if handler is None:
                raise ScpiError(-113, "Undefined header")
            return handler(parameters.strip())
        except ScpiError as e:
            self.complain(e)
            return None

    def complain(self, error: ScpiError) -> None:
        """Put an error into the queue."""
        self._errors.append(f'{error.number},"{error}"')

    def restart(self) -> None:
        """As after power on."""
        self._errors.clear()
        self._reset()


def number(text: str, low: float, high: float) -> float:
    """Return a numeric parameter; raises ScpiError when it is none or out of range."""
    try:
        value = float(text)
    except ValueError as e:
        raise ScpiError(-104, "Data type error") from e
    if not low <= value <= high:
        raise ScpiError(-222, "Data out of range")
    return value


def switch(text: str) -> bool:
    """Return a boolean parameter; raises ScpiError."""
    if text.upper() not in ("0", "1", "OFF", "ON"):
        raise ScpiError(-104, "Data type error")
    return text.upper() in ("1", "ON")


def _header(command: str) -> str:
    return command.strip().partition(" ")[0].upper().removeprefix(":")


def _forms(header: str) -> set[str]:
    """All spellings of a header: each word long or short."""
    spellings = [""]
    for word in re.split(r"(:)", header):
        short = "".join(c for c in word if not c.islower())
        spellings = [before + form for before in spellings for form in {short, word.upper()}]
    return set(spellings)

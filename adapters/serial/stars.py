"""STARS (Simple Transmission and Retrieval System, KEK Photon Factory): the log-in and the lines of its server.

The server begins with a number; a node answers with its name and the keyword on that line of its key file (the number modulo the
number of lines, counted from 0), and is told ``System>NODE Ok:``. From then on each line is ``FROM>TO text``: events such as
``th.ch1>edge1 _ChangedValue 21.5`` (after ``System flgon th.ch1``) and answers such as ``gap>edge1 @GetValue 12.0``; what follows
``Er:`` is an error. Protocol: STARS user's guide; checked against the client library of STARS-Core (IMSS-PhotonFactory on GitHub).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapters.serial.outcome import Answer, Outcome, Reading, Unparsed
from adapters.serial.template import TemplateParser
from adapters.serial.why import Why


class LoginRefused(Exception):
    """The server does not let the node in; ``why`` says why and what to do."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in. The file of keywords is read at each connect, so that it can be changed."""

    node: str
    keys: Path

    def answer(self, greeting: bytes) -> bytes:
        """What to say to the server's number. Raises LoginRefused."""
        try:
            number = int(greeting.strip())
        except ValueError:
            raise LoginRefused(
                Why("the server greets with {greeting} and not with a number; is it a STARS server?", greeting=repr(greeting[:40]))
            ) from None
        try:
            keywords = [line.strip() for line in self.keys.read_text("ascii").splitlines()]
        except (OSError, UnicodeDecodeError) as e:
            raise LoginRefused(Why("the keywords cannot be read ({error}); correct keys", error=e)) from e
        if not keywords:
            raise LoginRefused(Why("{file} is empty; put the keywords of {node} into it", file=self.keys, node=self.node))
        return f"{self.node} {keywords[number % len(keywords)]}\n".encode()

    def check(self, said: bytes) -> None:
        """Whether the server let the node in. Raises LoginRefused."""
        if b"Ok:" not in said:
            words = said.decode("ascii", "replace").strip()[:100]
            raise LoginRefused(
                Why(
                    "the server refused the node {node} ({said}); look at its key file and the server's list of hosts",
                    node=self.node,
                    said=words,
                )
            )


class StarsParser(TemplateParser):
    """As `TemplateParser`; what the server itself says is no item, and an error is told in the server's words."""

    def parse(self, line: bytes) -> Outcome:
        """The values of the line."""
        outcome = super().parse(line)
        if isinstance(outcome, Reading):
            return outcome
        text = line.decode("ascii", "replace")
        if " Er:" in text:
            return Unparsed(Why("the server says: {said}", said=text.strip()[:100]))
        return Answer() if text.startswith("System>") else outcome

"""Secrets are named in a configuration, never written into it.

A reference is one of ``{ file = "/path" }``, ``{ env = "NAME" }``, ``{ store = "name" }``. The `Secret` that comes out of it holds the
reference only; `Secret.reveal` reads the value at the moment of use, so that neither a dump, a log line nor a traceback of the
configuration can show it, and a rotated secret is taken without a restart.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from edge_agent.config.store import system_store
from edge_agent.errors import ConfigError
from edge_agent.words import t

KINDS = ("file", "env", "store")
LARGEST = 64 * 1024

_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STORE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Secret:
    """Where a secret is; not the secret."""

    __slots__ = ("kind", "where")

    def __init__(self, kind: Literal["file", "env", "store"], where: str) -> None:
        self.kind = kind
        self.where = where

    def __repr__(self) -> str:
        return f"Secret({self.kind}={self.where!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self.kind, self.where) == (other.kind, other.where)

    def __hash__(self) -> int:
        return hash((self.kind, self.where))

    def reveal(self) -> str:
        """Read the value now; one trailing line end is not part of it.

        Raises:
            ConfigError: there is nothing where the reference points, or it cannot be read (``CFG_SECRET_MISSING``).
        """
        try:
            value = self._read()
        except (OSError, UnicodeDecodeError, KeyError) as e:
            why = t("no such name") if isinstance(e, KeyError) else str(e)
            raise self._missing(why) from e
        value = value.removesuffix("\n").removesuffix("\r")
        if not value:
            raise self._missing(t("it is empty"))
        return value

    def _read(self) -> str:
        if self.kind == "env":
            return os.environ[self.where]
        if self.kind == "store":
            return system_store().read(self.where).decode()
        with Path(self.where).open("rb") as file:
            return file.read(LARGEST).decode()

    def _missing(self, why: str) -> ConfigError:
        return ConfigError(
            t("The secret {reference} cannot be read.", reference=f"{{ {self.kind} = {self.where!r} }}"),
            why=why,
            try_=_cure(self.kind, self.where),
            code="CFG_SECRET_MISSING",
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A reference in, a `Secret` out; dumped as the reference."""
        return core_schema.with_info_plain_validator_function(
            _parse, serialization=core_schema.plain_serializer_function_ser_schema(lambda secret: {secret.kind: secret.where})
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One of the three references."""
        shapes = [
            {"type": "object", "properties": {kind: {"type": "string"}}, "required": [kind], "additionalProperties": False}
            for kind in KINDS
        ]
        return {"oneOf": shapes, "description": "A secret by reference: never the value itself."}


def _parse(value: Any, info: core_schema.ValidationInfo) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError(
            "cfg_secret_inline",
            "{message}",
            {"message": t('a secret is never written here; put it in a file and write {{ file = "/path/of/the/file" }}')},
        )
    if len(value) != 1 or next(iter(value)) not in KINDS:
        raise _bad(t('a secret is one of {{ file = "..." }}, {{ env = "..." }}, {{ store = "..." }}'))
    kind, where = next(iter(value.items()))
    if not isinstance(where, str) or not where or "\0" in where:
        raise _bad(t("must be text that says where the secret is"))
    if kind == "env" and not _ENV.fullmatch(where):
        raise _bad(t("is no name of an environment variable"))
    if kind == "store" and not _STORE.fullmatch(where):
        raise _bad(t("is no name in a store: 1 to 63 of A-Z a-z 0-9 _ . -"))
    if kind == "file":
        folder = info.context.get("folder") if isinstance(info.context, dict) else None
        where = str(Path(folder or ".", where)) if folder else where
    return Secret(kind, where)


def _bad(message: str) -> PydanticCustomError:
    return PydanticCustomError("cfg_value", "{message}", {"message": message})


def _cure(kind: str, where: str) -> str:
    if kind == "env":
        return t("set the environment variable {name} for the service (systemd: EnvironmentFile=)", name=where)
    if kind == "store":
        return system_store().cure(where)
    return t("write the secret into {path}, readable for the service's user only (chmod 600)", path=where)

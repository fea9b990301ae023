"""Profiles: the keys of instruments that are known, one TOML file each; plus the languages, which are profiles without keys.

A facility adds its own by giving the keys in its configuration; a file here is for what others have, too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Final

LANGUAGES: Final = ("lines", "mettler-sics", "scpi", "stars")
_READS: Final = frozenset({"parse", "pattern", "struct", "fields", "poll", "command", "every"})
"""Keys that belong together: whoever gives one of them reads or asks in a way of their own."""


@cache
def names() -> tuple[str, ...]:
    """All profiles."""
    there = (file.name for file in files(__name__).iterdir())
    return (*LANGUAGES, *sorted(name.removesuffix(".toml") for name in there if name.endswith(".toml")))


@cache
def keys(name: str) -> Mapping[str, Any]:
    """The keys that a profile gives; raises ValueError when there is none of that name."""
    if name in LANGUAGES:
        return {"language": name}
    if name not in names():
        close = get_close_matches(name, names(), 1)
        raise ValueError(f"{name!r} is no profile; there are {', '.join(names())}" + (f" (did you mean {close[0]}?)" if close else ""))
    return tomllib.loads((files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))


def fill_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a table with those of its profile where it says nothing; raises ValueError."""
    profile = given.get("profile", "lines")
    if not isinstance(profile, str):
        return dict(given)  # the field itself says what is wrong
    known = keys(profile)
    if "profile" in given and profile in LANGUAGES and given.get("language", profile) != profile:
        raise ValueError(f'profile = "{profile}" is a language itself; leave out language')
    own = {key for key in given if given[key] is not None}
    other = own & _READS
    left = {key: value for key, value in known.items() if key not in own and not (other and key in (*_READS, "channels"))}
    filled = left | {key: value for key, value in given.items() if value is not None or key not in left}
    if not other and isinstance(given.get("channels"), Mapping):
        filled["channels"] = {**known.get("channels", {}), **given["channels"]}
    return filled

"""FAIR Signposting (https://signposting.org/FAIR/, 2023-10-02): what a program finds of a run from its page on. Pure: facts in, links out.

Level 1 are typed links in HTTP headers (RFC 8288), level 2 all of them in one link set (RFC 9264). The crate came from an agent and is
believed nothing: only addresses of the expected form are taken from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.model import ItemKind

LINKSET = "application/linkset+json"
CRATE_PROFILE = "https://w3id.org/ro/crate/1.1"
TYPES = ("https://schema.org/AboutPage", "https://schema.org/Dataset")
MEDIA = {
    ItemKind.SEGMENT: "application/x-hdf5", ItemKind.MASTER: "application/x-hdf5", ItemKind.PREVIEW: "image/png",
    ItemKind.MANIFEST: "text/plain", ItemKind.CRATE: "application/ld+json", ItemKind.SIDECAR: "application/cbor",
    ItemKind.RECEIPTS: "application/cbor",
}  # fmt: skip
"""What an item is; a vendor's file is bytes, whatever it calls itself."""
MOST_ITEMS = 24
"""Links to items in one header, which servers and proxies cut at 8 KiB; the link set has all of them."""
_PERSON = re.compile(r"https://orcid\.org/\d{4}-\d{4}-\d{4}-\d{3}[\dX]|https://ror\.org/0[a-z0-9]{6}\d{2}")
_LICENCE = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?(/[A-Za-z0-9._~/%+-]*)?")


@dataclass(frozen=True, slots=True)
class Link:
    """One typed link; ``media`` and ``profile`` are empty where they are not said."""

    rel: str
    href: str
    media: str = ""
    profile: str = ""

    def header(self) -> str:
        """As a value of the header ``Link``."""
        more = "".join(f'; {name}="{value}"' for name, value in (("type", self.media), ("profile", self.profile)) if value)
        return f'<{self.href}>; rel="{self.rel}"{more}'

    def target(self) -> dict[str, str]:
        """As a target of a link set."""
        return {"href": self.href} | {name: value for name, value in (("type", self.media), ("profile", self.profile)) if value}


@dataclass(frozen=True, slots=True)
class About:
    """What the crate of a run says: title, description, licence's address, ORCID or ROR of who made it; empty where it does not."""

    title: str = ""
    description: str = ""
    licence: str = ""
    authors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a run: its name in the folder, its address, what it is, its bytes and their digest."""

    name: str
    href: str
    kind: ItemKind
    size: int
    sha256: bytes

    @property
    def media(self) -> str:
        """Its media type."""
        return MEDIA.get(self.kind, "application/octet-stream")


def about(crate: bytes) -> About:
    """What a crate says; nothing of one that cannot be read."""
    try:
        graph = {each["@id"]: each for each in json.loads(crate)["@graph"] if isinstance(each.get("@id"), str)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return About()
    root = graph.get("./", {})
    makers = [_id(each.get("agent")) for each in graph.values() if each.get("@type") == "CreateAction"]
    licence = _id(root.get("license"))
    return About(
        _text(root.get("name")), _text(root.get("description")), licence if _LICENCE.fullmatch(licence) else "",
        tuple(sorted({maker for maker in makers if _PERSON.fullmatch(maker)})),
    )  # fmt: skip


def of_page(page: str, cite_as: str, linkset: str, said: About, parts: Sequence[Part]) -> list[Link]:
    """The links of a run's page, without those to the items.

    Args:
        page: its address.
        cite_as: an address of the run that stays when the run moves.
        linkset: address of the link set.
        said: what the crate says.
        parts: the files.
    """
    return [
        Link("cite-as", cite_as),
        *(Link("type", kind) for kind in TYPES),
        *(Link("author", author) for author in said.authors),
        *([Link("license", said.licence)] if said.licence else ()),
        *(Link("describedby", part.href, part.media, CRATE_PROFILE) for part in parts if part.kind is ItemKind.CRATE),
        Link("linkset", linkset, LINKSET),
    ]


def items(parts: Sequence[Part]) -> list[Link]:
    """The links from the page to the items: all files but the crate, which describes them."""
    return [Link("item", part.href, part.media) for part in parts if part.kind is not ItemKind.CRATE]


def of_part(page: str, linkset: str, said: About, part: Part) -> list[Link]:
    """The links of a file: back to the page, as what the file is to it."""
    back = Link("describes" if part.kind is ItemKind.CRATE else "collection", page, "text/html")
    licence = [Link("license", said.licence)] if said.licence and part.kind is not ItemKind.CRATE else []
    return [back, *licence, Link("linkset", linkset, LINKSET)]


def header(links: Sequence[Link]) -> str:
    """Value of the header ``Link``."""
    return ", ".join(link.header() for link in links)


def link_set(anchored: Mapping[str, Sequence[Link]]) -> bytes:
    """The link set as JSON (RFC 9264, 4.2). ``anchored`` are the links by the address that they start from."""
    contexts: list[dict[str, Any]] = []
    for anchor, links in anchored.items():
        context: dict[str, Any] = {"anchor": anchor}
        for link in links:
            context.setdefault(link.rel, []).append(link.target())
        contexts.append(context)
    return json.dumps({"linkset": contexts}, indent=1).encode() + b"\n"


def _id(value: Any) -> str:
    identifier = value.get("@id") if isinstance(value, dict) else None
    return identifier if isinstance(identifier, str) else ""


def _text(value: Any) -> str:
    return value[:1000] if isinstance(value, str) else ""

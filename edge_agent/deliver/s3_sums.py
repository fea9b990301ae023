"""Checksums of S3 objects: SHA-256, and CRC-64/NVME over a whole multipart object.

A store that was given a checksum refuses other bytes and keeps the sum beside the object. Of a multipart object a SHA-256 is only
that of its parts' digests ("composite"), so the whole is compared by CRC-64/NVME where the store knows it (Amazon S3 API reference,
"Checking object integrity").
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from awscrt import checksums  # the only implementation that is not per byte; botocore[crt] brings it


class PartSum(StrEnum):
    """What the parts of a multipart object are sent with; the value is the API's name of the algorithm."""

    CRC64NVME = "CRC64NVME"
    SHA256 = "SHA256"
    NONE = ""


def base64_of(digest: bytes) -> str:
    """As the API writes a checksum."""
    return base64.b64encode(digest).decode()


def sums(kind: PartSum, data: bytes) -> dict[str, str]:
    """The checksum of an object or a part, as the API's calls take it."""
    if kind is PartSum.NONE:
        return {}
    digest = hashlib.sha256(data).digest() if kind is PartSum.SHA256 else checksums.crc64nvme(data).to_bytes(8, "big")
    return {f"Checksum{kind}": base64_of(digest)}


@dataclass(slots=True)
class Whole:
    """What is known of a whole object while its parts go by, in order."""

    crc: int = 0
    part_digests: list[bytes] = field(default_factory=list)

    def add(self, kind: PartSum, data: bytes) -> dict[str, str]:
        """Count one part in; its checksum, see `sums`."""
        self.crc = checksums.crc64nvme(data, self.crc)
        found = sums(kind, data)
        if kind is PartSum.SHA256:
            self.part_digests.append(base64.b64decode(found["ChecksumSHA256"]))
        return found

    def said(self, kind: PartSum) -> str:
        """The whole object's checksum, as it is said when the upload is completed."""
        if kind is PartSum.CRC64NVME:
            return base64_of(self.crc.to_bytes(8, "big"))
        return f"{base64_of(hashlib.sha256(b''.join(self.part_digests)).digest())}-{len(self.part_digests)}"


def agrees(head: Mapping[str, Any], sha256: bytes, whole: Whole | None) -> bool | None:
    """Whether the checksum that a store keeps is that of our bytes; None: it keeps none that can be compared.

    Args:
        head: the reply of HeadObject with ``ChecksumMode="ENABLED"``.
        sha256: SHA-256 of the whole object.
        whole: what the parts came to, where it was sent in parts.
    """
    kept = head.get("ChecksumSHA256")
    if kept is not None and "-" not in kept:
        return bool(kept == base64_of(sha256))
    if whole is None:
        return None
    crc = head.get("ChecksumCRC64NVME")
    if crc is not None and "-" not in crc:
        return bool(crc == whole.said(PartSum.CRC64NVME))
    if kept is not None and whole.part_digests and kept.endswith(f"-{len(whole.part_digests)}"):
        return bool(kept == whole.said(PartSum.SHA256))
    return None

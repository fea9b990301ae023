"""One bucket of an S3 store, as a landing service needs it: whole objects, each sent with its SHA-256, none replaced unless asked.

Built on botocore, which finds the keys where every S3 program does (``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, the shared
credentials file, the machine's role). All methods block and may be called from several threads. What the store has trouble with is refused
with TROUBLE, or FULL.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from edge_agent.errors import ConfigError
from edge_agent.wire.refusal import Code, Refused
from landing.home import S3Place

PART = 16 << 20
"""Bytes of a part, and of the largest object that is sent as one."""
MOST_PARTS = 10_000
BLOCK = 1 << 20
_TAKEN = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_FULL = frozenset({"InsufficientStorage", "507", "QuotaExceeded", "QuotaExceededException", "XMinioStorageFull"})
_AT_ONCE = 1000


class TakenError(Exception):
    """There is an object under this key."""


class Bucket:
    """The objects below ``place.prefix``; keys here are without it."""

    def __init__(self, place: S3Place) -> None:
        self._place = place
        self._client: Any = botocore.session.Session().create_client(
            "s3", region_name=place.region, endpoint_url=place.endpoint, verify=place.ca or True,
            config=Config(
                connect_timeout=15, read_timeout=60, retries={"total_max_attempts": 3, "mode": "standard"}, max_pool_connections=16,
                s3={"addressing_style": "path" if place.path_style else "virtual"},
                # Each sum is given, and compared, by us: older stores refuse what botocore adds.
                request_checksum_calculation="when_required", response_checksum_validation="when_required",
            ),
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def reach(self) -> None:
        """Ask for the bucket.

        Raises:
            ConfigError: there is none of that name.
        """
        try:
            with self._errors():
                self._client.head_bucket(Bucket=self._place.bucket)
        except FileNotFoundError as error:
            raise ConfigError(
                f"There is no bucket {self._place.bucket} at {self._place.endpoint}", why="the store says 404",
                try_="make the bucket, or mend its name in landing.json", code="LANDING_BUCKET",
            ) from error  # fmt: skip

    def name(self, key: str) -> str:
        """How people write an object."""
        return f"s3://{self._place.bucket}/{self._place.prefix}{key}"

    def head(self, key: str) -> Mapping[str, Any] | None:
        """What the store says of an object, its checksum included; None: there is none."""
        try:
            with self._errors():
                found: Mapping[str, Any] = self._client.head_object(**self._object(key), ChecksumMode="ENABLED")
                return found
        except FileNotFoundError:
            return None

    def put(self, key: str, data: bytes, *, only_new: bool = True) -> None:
        """Store a small object.

        Raises:
            TakenError: ``only_new``, and there is one.
        """
        with self._errors():
            self._client.put_object(
                **self._object(key), Body=data, ChecksumSHA256=base64_of(hashlib.sha256(data).digest()), **_condition(only_new)
            )

    def send(self, key: str, path: Path, size: int, *, only_new: bool) -> str:
        """Store a file; the SHA-256 checksum that the store should say of it, as the API writes it. Raises as `put`."""
        with path.open("rb") as file:
            if size <= PART:
                data = file.read()
                self.put(key, data, only_new=only_new)
                return base64_of(hashlib.sha256(data).digest())
            with self._errors():
                upload = self._client.create_multipart_upload(**self._object(key), ChecksumAlgorithm="SHA256")["UploadId"]
            try:
                return self._send_parts(key, upload, iter(lambda: file.read(max(PART, -(-size // MOST_PARTS))), b""), only_new=only_new)
            except BaseException:
                with self._errors():
                    self._client.abort_multipart_upload(**self._object(key), UploadId=upload)
                raise

    def _send_parts(self, key: str, upload: str, blocks: Iterator[bytes], *, only_new: bool) -> str:
        parts, digests = [], []
        for number, data in enumerate(blocks, 1):
            digests.append(hashlib.sha256(data).digest())
            said = base64_of(digests[-1])
            with self._errors():
                reply = self._client.upload_part(**self._object(key), UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=said)
            parts.append({"PartNumber": number, "ETag": reply["ETag"], "ChecksumSHA256": said})
        with self._errors():
            self._client.complete_multipart_upload(
                **self._object(key), UploadId=upload, MultipartUpload={"Parts": parts}, **_condition(only_new)
            )
        return f"{base64_of(hashlib.sha256(b''.join(digests)).digest())}-{len(digests)}"

    def read(self, key: str) -> Generator[bytes, None, None]:
        """The bytes of an object.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._errors():
            yield from self._client.get_object(**self._object(key))["Body"].iter_chunks(BLOCK)

    def below(self, folder: str) -> list[str]:
        """The keys of the objects in a folder (which ends with a slash)."""
        with self._errors():
            return [key for key, _ in self._listed(folder)]

    def older(self, folder: str, before_ns: int) -> list[str]:
        """Those of them that were written before ``before_ns`` (UTC), by the store's clock."""
        with self._errors():
            return [key for key, written in self._listed(folder) if written.timestamp() * 1e9 < before_ns]

    def _listed(self, folder: str) -> Iterator[tuple[str, datetime]]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._place.bucket, Prefix=self._place.prefix + folder)
        for entry in (entry for page in pages for entry in page.get("Contents", ())):
            yield entry["Key"].removeprefix(self._place.prefix), entry["LastModified"]

    def remove(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is not there is no error."""
        for start in range(0, len(keys), _AT_ONCE):
            some = [{"Key": self._place.prefix + key} for key in keys[start : start + _AT_ONCE]]
            with self._errors():
                self._client.delete_objects(Bucket=self._place.bucket, Delete={"Objects": some, "Quiet": True})

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self._place.bucket, "Key": self._place.prefix + key}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            said = error.response.get("Error", {})
            code = str(said.get("Code", ""))
            if code in _TAKEN:
                raise TakenError from error
            if code in _MISSING:
                raise FileNotFoundError(code) from error
            raise _trouble(f"{code} {said.get('Message', '')}".strip(), full=code in _FULL) from error
        except (BotoCoreError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise _trouble(str(error) or type(error).__name__, full=False) from error


def base64_of(digest: bytes) -> str:
    """As the API writes a checksum."""
    return base64.b64encode(digest).decode()


def _condition(only_new: bool) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if only_new else {}


def _trouble(why: str, *, full: bool) -> Refused:
    if full:
        return Refused(Code.FULL, "The landing service's store is full", why=why, try_="its operator has to free space")
    return Refused(Code.TROUBLE, "The landing service's S3 store does not answer as it should", why=why, try_="its operator should look")

"""One bucket of an S3 store: the calls that a target needs, with errors by what the operator can do about them.

Built on botocore. All methods block; botocore's clients may be used from several threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from edge_agent.errors import EdgeAgentError, PermissionRefused, TargetUnreachable

TIMEOUT = 60.0
"""Seconds without a byte from the store."""
BLOCK = 1 << 20

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_EXISTS = frozenset({"PreconditionFailed", "412"})
_RACE = frozenset({"ConditionalRequestConflict", "409", "OperationAborted"})
_GONE = frozenset({"NoSuchUpload"})
_WRONG_BYTES = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidPart"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull"})
"""Ceph and MinIO; others answer 507."""
_PASSING = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException"})


class AlreadyThere(Exception):
    """There is an object under this key."""


class NotUnderstood(PermissionRefused):
    """The store does not know this kind of request."""


class UploadGone(Exception):
    """The store does not know this multipart upload (any more)."""


class WrongBytes(Exception):
    """The store got other bytes than the checksum says; it kept nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where objects go: ``endpoint`` as "https://host:port", ``ca`` a PEM file or None for the system's authorities."""

    endpoint: str
    bucket: str
    region: str
    prefix: str
    path_style: bool
    ca: str | None


class Store:
    """One bucket, with the keys of now."""

    def __init__(self, name: str, place: Place, access_key: str, secret_key: str) -> None:
        """Prepare; nothing is connected yet. ``name`` is the target's, for messages."""
        self._name = name
        self._place = place
        self._bucket = place.bucket
        self._client: Any = botocore.session.Session().create_client(
            "s3", region_name=place.region, endpoint_url=place.endpoint, verify=place.ca or True,
            aws_access_key_id=access_key, aws_secret_access_key=secret_key,
            config=Config(
                connect_timeout=TIMEOUT / 4, read_timeout=TIMEOUT, retries={"total_max_attempts": 2, "mode": "standard"},
                s3={"addressing_style": "path" if place.path_style else "virtual"}, max_pool_connections=16,
                # We give each sum ourselves, and compare what comes back ourselves: older stores refuse what botocore adds.
                request_checksum_calculation="when_required", response_checksum_validation="when_required",
            ),
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def head(self, key: str) -> Mapping[str, Any] | None:
        """What the store says of an object, its checksum included; None: there is none."""
        try:
            with self._errors():
                found: Mapping[str, Any] = self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
                return found
        except KeyError:
            return None

    def put(self, key: str, data: bytes, sums: Mapping[str, str], more: Mapping[str, Any], *, only_new: bool) -> None:
        """Store a small object.

        Args:
            key: its name.
            data: its bytes.
            sums: as ``{"ChecksumSHA256": ...}``.
            more: metadata, object lock.
            only_new: refuse to replace another.

        Raises:
            AlreadyThere: ``only_new``, and there is one.
            WrongBytes: the checksum is not that of the bytes.
            EdgeAgentError: see the module.
        """
        condition = {"IfNoneMatch": "*"} if only_new else {}
        with self._errors():
            self._client.put_object(Bucket=self._bucket, Key=key, Body=data, **sums, **condition, **more)

    def begin(self, key: str, kind: str, more: Mapping[str, Any]) -> str:
        """Begin a multipart upload; its id."""
        whole = {"ChecksumType": "FULL_OBJECT"} if kind == "CRC64NVME" else {}
        with self._errors():
            made = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, ChecksumAlgorithm=kind, **whole, **more)
            return str(made["UploadId"])

    def parts(self, key: str, upload: str) -> dict[int, tuple[int, str]]:
        """Size and ETag of each part that the store has, by number.

        Raises:
            UploadGone: it does not know the upload.
            EdgeAgentError: see the module.
        """
        with self._errors():
            pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload)
            return {int(p["PartNumber"]): (int(p["Size"]), str(p["ETag"])) for page in pages for p in page.get("Parts", ())}

    def part(self, key: str, upload: str, number: int, data: bytes, sums: Mapping[str, str]) -> str:
        """Send one part; its ETag. Raises as `put`, and `UploadGone`."""
        with self._errors():
            reply = self._client.upload_part(Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=number, Body=data, **sums)
            return str(reply["ETag"])

    def complete(self, key: str, upload: str, parts: list[dict[str, Any]], sums: Mapping[str, str], *, only_new: bool) -> None:
        """Make an object of the parts. Raises as `put`, and `UploadGone`."""
        condition = {"IfNoneMatch": "*"} if only_new else {}
        with self._errors():
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **sums, **condition
            )  # fmt: skip

    def abort(self, key: str, upload: str) -> None:
        """Give an upload up; one that is not known is no error."""
        with contextlib.suppress(UploadGone, KeyError), self._errors():
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)

    def read(self, key: str) -> Iterator[bytes]:
        """The bytes of an object, as the store has them now.

        Raises:
            EdgeAgentError: see the module; also when it is gone.
        """
        try:
            with self._errors():
                yield from self._client.get_object(Bucket=self._bucket, Key=key)["Body"].iter_chunks(BLOCK)
        except KeyError as error:
            raise self._unreachable(f"{key} is gone", error) from error

    def locks(self) -> bool:
        """Whether objects in this bucket can be locked."""
        try:
            with self._errors(absent="ObjectLockConfigurationNotFoundError"):
                found = self._client.get_object_lock_configuration(Bucket=self._bucket)
        except KeyError:
            return False
        return bool(found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")

    def reach(self) -> None:
        """Ask for the bucket.

        Raises:
            TargetUnreachable: no answer.
            PermissionRefused: there is no such bucket, or it is not for us.
        """
        try:
            with self._errors():
                self._client.head_bucket(Bucket=self._bucket)
        except KeyError as error:
            raise self._no_bucket("HEAD of the bucket says 404") from error

    @contextlib.contextmanager
    def _errors(self, absent: str = "") -> Iterator[None]:
        """Botocore's errors as ours. What is not there is a KeyError."""
        try:
            yield
        except ClientError as error:
            raise self._said(error, absent) from error
        except (BotoCoreError, OSError) as error:
            raise self._unreachable(str(error), error) from error

    def _said(self, error: ClientError, absent: str) -> Exception:
        said = error.response.get("Error", {})
        code, status = str(said.get("Code", "")), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        why = f"{code} {said.get('Message', '')}".strip()
        exact: dict[str, Callable[[], Exception]] = {
            **dict.fromkeys(_EXISTS, AlreadyThere), **dict.fromkeys(_GONE, UploadGone),
            **dict.fromkeys(_WRONG_BYTES, lambda: WrongBytes(why)),
            **dict.fromkeys({*_MISSING, *({absent} if absent else ())}, lambda: KeyError(code)),
        }  # fmt: skip
        if code in exact:
            return exact[code]()
        if code in _SKEWED:
            return TargetUnreachable(
                f"{self._name}: the clocks of this machine and of the store differ", why=why,
                try_="set this machine's clock (timedatectl, w32tm); it is tried again by itself", code="S3_CLOCK",
            )  # fmt: skip
        if code in _FULL or status == 507:
            return self._refused(PermissionRefused, why, "make room in the bucket, or have its quota raised", "S3_FULL")
        if code in _PASSING or code in _RACE or status >= 500 or status == 429:
            return self._unreachable(why, error)
        if code == "NoSuchBucket":
            return self._no_bucket(why)
        if code == "EntityTooLarge" or status == 413:
            return self._refused(PermissionRefused, why, "set a smaller segment size for the next runs", "S3_TOO_LARGE")
        rights = f"check the keys and their rights: put, head, get, multipart, and at some stores list, in bucket {self._bucket}"
        return self._refused(NotUnderstood if status in (400, 501) else PermissionRefused, why, rights, "S3_REFUSED")

    def _unreachable(self, why: str, error: BaseException) -> EdgeAgentError:
        return TargetUnreachable(
            f"{self._name}: the S3 store at {self._place.endpoint} does not answer as it should", why=why or type(error).__name__,
            try_="it is tried again by itself; look at the store and the network if this goes on", code="S3_TROUBLE",
        )  # fmt: skip

    def _no_bucket(self, why: str) -> PermissionRefused:
        return self._refused(PermissionRefused, why, "make the bucket, or mend its name", "S3_NO_BUCKET")

    def _refused(self, kind: type[PermissionRefused], why: str, try_: str, code: str) -> PermissionRefused:
        return kind(f"{self._name}: the S3 store refuses us", why=why, try_=f"{try_}; then edge-agent kick", code=code)

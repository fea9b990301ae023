"""The ``[target.NAME]`` tables: exactly one of the keys in `KINDS` says of which kind a target is."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationInfo, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from edge_agent.config.secret import Secret
from edge_agent.config.values import DayHours, LocalPath, Rate, Size
from edge_agent.words import t

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Table(BaseModel):
    """Base of every table of the configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True)


def _url(value: str, schemes: dict[str, bool], example: str) -> str:
    """Check an address; ``schemes`` says of each whether it is encrypted. Plain ones are for this machine only."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as e:
        raise _bad(t('is no address such as "{example}"', example=example)) from e
    if parts.username or parts.password:
        raise PydanticCustomError("cfg_secret_inline", "{message}", {"message": t("a user or password is never written into an address")})
    if parts.scheme not in schemes or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise _bad(t('must be an address such as "{example}"', example=example))
    if not schemes[parts.scheme] and parts.hostname not in LOOPBACK:
        raise _bad(t('would be sent unencrypted; write "{scheme}://"', scheme=next(name for name, safe in schemes.items() if safe)))
    return value.rstrip("/")


LandingUrl = Annotated[str, AfterValidator(lambda value: _url(value, {"https": True, "http": False}, "https://landing.example.ac.jp"))]
MqttUrl = Annotated[str, AfterValidator(lambda value: _url(value, {"mqtts": True, "mqtt": False}, "mqtts://broker.example.ac.jp:8883"))]
S3Url = Annotated[str, AfterValidator(lambda value: _url(value, {"https": True, "http": False}, "https://s3.example.ac.jp"))]
GrdmUrl = Annotated[str, AfterValidator(lambda value: _url(value, {"https": True, "http": False}, "https://files.rdm.nii.ac.jp"))]
TsaUrl = Annotated[str, AfterValidator(lambda value: _url(value, {"https": True, "http": False}, "https://tsa.example.ac.jp"))]


class TargetTable(Table):
    """What every target has."""

    required: StrictBool = True
    """Whether space is freed only after this target proved that it holds the data. Default true."""
    rate: Rate | None = None
    """At most so many bytes a second, as "20 MB/s". Default: no limit."""
    project_space: StrictBool = True
    """Whether it is the projects' own space; if not, only open data and what "allowed" names goes there. Default true."""
    jurisdiction: str = Field(default="", pattern=r"^([A-Z]{2})?$")
    """Country in which the data would be, as "JP" (ISO 3166-1). Default: not said."""
    hours: DayHours | None = None
    """Only at these hours, as "22:00-06:00", in the facility's time zone; what is on its way goes on. Default: always."""


class Networked(TargetTable):
    """What targets on the network have."""

    ca: LocalPath | None = None
    """PEM file of the authority that issued the other side's certificate. Default: what enrolment stored, else the system's authorities."""


class SharedStore(TargetTable):
    """What targets have that only store, and that others may read: people who run the store, other users of it."""

    encrypt: Literal["closed", "shared", "never"] | None = None
    """What goes there only encrypted: "closed", "shared" (closed too), "never". Default: closed data of projects with encrypt_to."""


class LandingTarget(Networked):
    """A landing service, over HTTPS."""

    landing: LandingUrl
    """Address of the service, as "https://landing.example.ac.jp"."""


class MqttTarget(Networked):
    """A landing service behind an MQTT broker."""

    mqtt: MqttUrl
    """Address of the broker, as "mqtts://broker.example.ac.jp:8883"."""
    topic: str = Field(default="edge", pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$")
    """Beginning of all topics. Default "edge"."""
    user: str | None = None
    """User at the broker. Default: none; the certificate says who we are."""
    password: Secret | None = None
    """Password at the broker, by reference: {file = "..."}."""
    piece: Size = Field(default=10**6, ge=2**10, le=2**20)
    """Largest message, "1 KiB" to "1 MiB". Default "1 MB"."""


class LockTable(Table):
    """Objects are locked as they arrive; the bucket must allow it."""

    mode: Literal["governance", "compliance"]
    """ "governance": people with a special right can still remove them; "compliance": nobody can."""
    days: int = Field(ge=1, le=36500)
    """For how many days."""


class S3Target(Networked, SharedStore):
    """A bucket of an S3 store."""

    s3: S3Url
    """Address of the store, as "https://s3.example.ac.jp"."""
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    """The bucket; it must exist."""
    access_key: Secret
    """Access key, by reference: {file = "..."}."""
    secret_key: Secret
    """Secret key, by reference: {file = "..."}."""
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]+$")
    """Region. Default "us-east-1", which most stores outside of Amazon take."""
    prefix: str = Field(default="", pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*$", max_length=200)
    """Beginning of all names, as "bl05/". Default: none."""
    path_style: StrictBool = True
    """Whether the bucket stands in the path of the address and not in its host name. Default true."""
    part: Size = Field(default=16 << 20, ge=5 << 20, le=1 << 30)
    """Larger items are sent in parts of this size, "5 MiB" to "1 GiB". Default "16 MiB"."""
    lock: LockTable | None = None
    """Lock objects as they arrive. Default: not."""


Node = Annotated[str, Field(pattern=r"^[a-z0-9]{5,10}$")]


class GrdmTarget(Networked, SharedStore):
    """A project of GakuNin RDM."""

    grdm: GrdmUrl
    """Address of its files (WaterButler), as "https://files.rdm.nii.ac.jp"."""
    api: GrdmUrl = "https://api.rdm.nii.ac.jp/v2"
    """Address of its API v2. Default "https://api.rdm.nii.ac.jp/v2"."""
    token: Secret
    """Personal access token, by reference: {file = "..."}."""
    node: Node | None = None
    """Id of the project for all that is not in nodes, as "abc12"."""
    nodes: dict[str, Node] = Field(default_factory=dict)
    """Id of the project for each project of ours, as {lysozyme = "abc12"}."""
    storage: str | None = Field(default=None, pattern=r"^[a-z0-9]+$")
    """Storage of the project. Default: the only one, else "osfstorage"."""
    largest: Size = Field(default=50 << 30, ge=1 << 20)
    """Largest file that the site takes. Default "50 GiB"."""

    @model_validator(mode="after")
    def _somewhere(self) -> GrdmTarget:
        if self.node is None and not self.nodes:
            raise _bad(t('needs node = "abc12", or nodes = {{project = "abc12"}}'))
        return self


class FolderTarget(SharedStore):
    """A folder on this machine or on a mounted share: the weakest proof, files are read back and compared."""

    folder: LocalPath
    """The folder that holds the project spaces."""


Target = LandingTarget | MqttTarget | S3Target | GrdmTarget | FolderTarget

KINDS: dict[str, type[TargetTable]] = {
    "landing": LandingTarget, "mqtt": MqttTarget, "s3": S3Target, "grdm": GrdmTarget, "folder": FolderTarget,
}  # fmt: skip


def _pick(value: Any, handler: Any, info: ValidationInfo) -> Any:
    """Validate against the one model that the table's key names, so that mistakes are told of that one only."""
    if isinstance(value, TargetTable):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "must be a table")
    kinds = [kind for kind in KINDS if kind in value]
    if len(kinds) != 1:
        found = " + ".join(kinds)
        message = (
            t("has {found}: keep exactly one of them", found=found)
            if kinds
            else t(
                'needs one of landing = "https://...", mqtt = "mqtts://...", s3 = "https://...", grdm = "https://..." or folder = "/path"'
            )
        )
        raise PydanticCustomError("cfg_target_kind", "{message}", {"message": message})
    return KINDS[kinds[0]].model_validate(value, context=info.context)


AnyTarget = Annotated[Target, WrapValidator(_pick)]
"""One of the kinds, chosen by the key that is there."""


def _bad(message: str) -> PydanticCustomError:
    return PydanticCustomError("cfg_value", "{message}", {"message": message})

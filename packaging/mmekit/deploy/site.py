"""What is deployed, and where: the names of everything that belongs to a deployment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mmekit.archive import container_environment
from mmekit.errors import DeployError, SettingsError
from mmekit.settings import CPU_TAG, published_image

if TYPE_CHECKING:
    from mmekit.deploy.account import Account
    from mmekit.deploy.deployment import Deployment

__all__ = ["VARIANT", "Site"]

VARIANT = "AllTraffic"


@dataclass(frozen=True)
class Site:
    """A deployment in an account.

    Attributes
    ----------
    account
        Where.
    deployment
        What.
    """

    account: Account
    deployment: Deployment

    @property
    def name(self) -> str:
        """Return the deployment's name, which is the endpoint's."""
        return self.deployment.name

    @property
    def bucket(self) -> str:
        """Return the bucket's name."""
        own = f"{self.name}-{self.account.number}-{self.account.region}".lower()
        return self.deployment.bucket or own

    @property
    def prefix(self) -> str:
        """Return what every archive's key begins with; it ends with a slash."""
        return f"{self.deployment.prefix}/"

    @property
    def data_url(self) -> str:
        """Return the model's ModelDataUrl."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def role_name(self) -> str:
        """Return the name of the role that is made where none is given; IAM has no regions."""
        return f"{self.name}-{self.account.region}"

    @property
    def role(self) -> str:
        """Return the ARN of the role that the endpoint runs as."""
        own = f"arn:{self.account.partition}:iam::{self.account.number}:role/{self.role_name}"
        return self.deployment.role or own

    @cached_property
    def image(self) -> str:
        """Return the URI of the container image.

        Raises
        ------
        DeployError
            The file names none, and AWS publishes none for the region.
        """
        deployment = self.deployment
        if deployment.image is not None:
            return deployment.image
        try:
            return published_image(self.account.region, deployment.instance_type)
        except SettingsError as error:
            raise DeployError(
                error.what.replace("MME_IMAGE_URI is not set", "The file names no image"),
                where=f"{deployment.name}, {self.account.region}",
                remedy="Name an image of yours as `image`, or deploy to another region; the table "
                "is that of sagemaker-core.",
            ) from None

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of the containers."""
        is_stock = self.image.endswith(f":{CPU_TAG}")
        return {
            **(container_environment() if is_stock else {}),
            **self.deployment.environment,
        }

    @property
    def scaled_resource(self) -> str:
        """Return what Application Auto Scaling calls the variant."""
        return f"endpoint/{self.name}/variant/{VARIANT}"

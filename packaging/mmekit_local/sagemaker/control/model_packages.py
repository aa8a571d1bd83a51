"""The model registry: from the name of a model package to the container that it describes.

Sources: the API reference's pages of CreateModelPackage ("For versioned models, the value of this
parameter must be set to Approved to deploy the model"), ContainerDefinition and
InferenceSpecification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmekit_local.sagemaker.errors import validation_exception

if TYPE_CHECKING:
    from moto.sagemaker.models import ModelPackage, SageMakerModelBackend

__all__ = ["ModelPackages", "containers_of"]

_APPROVED = "Approved"
_COMPLETED = "Completed"
_KIND = ":model-package/"


class ModelPackages:
    """The model packages of an account and region.

    Parameters
    ----------
    backend
        moto's records.
    """

    def __init__(self, backend: SageMakerModelBackend) -> None:
        self._backend = backend

    def check(self, container: dict[str, Any]) -> None:
        """Raise what a container that names a model package cannot be made a model of for.

        Raises
        ------
        AwsError
            There is no such package, it may not be deployed, or it does not say how.
        """
        name = str(container["ModelPackageName"])
        package = self._package(name)
        if package is None:
            versions = f"{_KIND}{name.lower()}/"
            hint = (
                " It is a model package group: name a version of it by its ARN."
                if any(versions in arn for arn in self._backend.model_packages)
                else ""
            )
            raise validation_exception(f"Model package {name} does not exist.{hint}")
        if package.model_package_status != _COMPLETED:
            raise validation_exception(
                f"Model package {package.arn} is {package.model_package_status}, not {_COMPLETED}."
            )
        versioned = package.model_package_version is not None
        if versioned and package.model_approval_status != _APPROVED:
            raise validation_exception(
                f"Model package {package.arn} is {package.model_approval_status}; its "
                "ModelApprovalStatus must be Approved to deploy it. UpdateModelPackage sets it."
            )
        self._described(package, container)

    def containers(self, container: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the containers that a container definition stands for.

        Raises
        ------
        LookupError
            The model package that it names is not there (any more), or does not say how.
        """
        if not container.get("ModelPackageName"):
            return [container]
        package = self._package(str(container["ModelPackageName"]))
        if package is None:
            raise LookupError(f"Could not find model package {container['ModelPackageName']!r}.")
        own = {name: value for name, value in container.items() if name != "ModelPackageName"}
        environment = own.pop("Environment", {})
        return [
            {
                **described,
                **own,
                "Environment": {**described.get("Environment", {}), **environment},
            }
            for described in self._described(package, container)
        ]

    def _package(self, name: str) -> ModelPackage | None:
        """Return a package by its ARN, its name, or its group and version with a slash between."""
        packages = self._backend.model_packages
        if _KIND not in name:
            ending = _KIND + name.lower()
            return next((one for arn, one in packages.items() if arn.endswith(ending)), None)
        prefix, _, own = name.partition(_KIND)  # moto writes names in lower case, as SageMaker does
        return packages.get(prefix + _KIND + own.lower())

    @staticmethod
    def _described(package: ModelPackage, container: dict[str, Any]) -> list[dict[str, Any]]:
        wanted = container.get("InferenceSpecificationName")
        specification: dict[str, Any] | None = package.inference_specification
        if wanted is not None:
            found = (
                one
                for one in package.additional_inference_specifications or []
                if one.get("Name") == wanted
            )
            specification = next(found, None)
        containers: list[dict[str, Any]] = (specification or {}).get("Containers") or []
        if not containers:
            which = "InferenceSpecification" if wanted is None else f"specification {wanted!r}"
            raise validation_exception(
                f"Model package {package.arn} has no {which} with a container, so that nothing "
                "says which image serves it. Packages of a SourceAlgorithmSpecification are not "
                "supported here."
            )
        return containers


def containers_of(backend: SageMakerModelBackend, model: Any) -> list[dict[str, Any]]:
    """Return the containers of moto's record of a model, those of model packages resolved.

    Raises
    ------
    LookupError
        A model package is not there (any more).
    """
    given = [model.primary_container] if model.primary_container else list(model.containers)
    packages = ModelPackages(backend)
    return [found for container in given for found in packages.containers(container)]

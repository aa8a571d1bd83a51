"""Containers of any image, as commands of this machine."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit.errors import ImageError
from mmekit.instance_types import is_graviton
from mmekit_local.containers.images import ImageRule, ImageRules, architecture_of
from mmekit_local.guard import ProcessTag
from mmekit_local.ports import free_port
from mmekit_local.sagemaker.instances.launcher import (
    CommandLauncher,
    container_variables,
    start_process,
)

if TYPE_CHECKING:
    from mmekit_local.sagemaker import Container, ContainerLauncher, Placement

__all__ = ["ImageLauncher", "require_architecture"]

# Below those that `free_port` gives out.
_SAFE_PORTS = range(10_000, 20_000)
_BLOCK = 100  # of ports, for one container's own use


class ImageLauncher:
    """Starts what images.json and the built-in rules say for an image.

    The file is read at every start of a container, so that a change counts without a restart of
    the service.

    Parameters
    ----------
    default
        Starts DJL Serving's images.
    installs
        Whether the embedded server, where a rule names it, makes environments for models.
    """

    def __init__(self, default: ContainerLauncher, *, installs: bool = True) -> None:
        self._default = default
        self._installs = installs
        self._blocks = itertools.cycle(_SAFE_PORTS[::_BLOCK])

    async def launch(self, placement: Placement) -> Container:
        """Start the container that a placement's image stands for.

        Raises
        ------
        ImageError
            No rule says what the image is, images.json is not what it may be, or names a program
            that is not there; or the model is to have no network.
        OSError
            The command cannot be started.
        """
        if placement.isolated:
            what = "A process of this machine cannot be cut off from the network."
            remedy = "Use --server docker, or create the model without EnableNetworkIsolation."
            raise ImageError(what, where=placement.label, remedy=remedy)
        if not placement.image:
            return await self._default.launch(placement)
        rule = _rule_for(placement.image)
        program, *arguments = rule.words()
        # As in a container, where CreateModel's Environment overrules the image's.
        given = (*rule.environment, *placement.environment)
        placement = replace(placement, environment=given)
        if program == "djl":
            return await self._default.launch(placement)
        if program == "embedded":
            own = () if self._installs else ("--no-install",)
            embedded = (sys.executable, "-m", "mmekit_local.server", *own)
            return await CommandLauncher([*embedded, *arguments]).launch(placement)
        if program == "mms":
            program, arguments = sys.executable, ["-m", "mmekit_local.containers.mms", *arguments]
        port = free_port()
        variables = await asyncio.to_thread(self._variables, placement, port)
        found = shutil.which(program, path=variables["PATH"])
        if found is None:
            what = f"There is no program {program} to run for {placement.image}."
            remedy = "Install it, name it by its path, or change the rule."
            raise ImageError(what, where=str(rule.folder), remedy=remedy)
        command = [found, *arguments]
        tag = ProcessTag.new()
        variables.update(tag.variables)
        return await start_process(command, variables, placement, port, afterwards=tag.sweep)

    def require(self, image: str, instance_type: str | None) -> None:
        """Raise where nothing here can stand for an image on an instance type.

        Raises
        ------
        ImageError
            What is wrong and what to do.
        """
        if image:
            _rule_for(image)
            require_architecture(image, instance_type)

    def _variables(self, placement: Placement, port: int) -> dict[str, str]:
        """Return the environment that SageMaker gives a container, with this machine's folders.

        Source: "Custom Inference Code with Hosting Services" and "Build Your Own Container for
        SageMaker AI Multi-Model Endpoints" in AWS's documentation; SAGEMAKER_BASE_DIR is read by
        sagemaker-inference in the place of /opt/ml.
        """
        models = placement.folder / "models"
        if placement.model is not None:
            placement.folder.mkdir(parents=True, exist_ok=True)
            models = placement.folder / "model"
            models.unlink(missing_ok=True)  # of a container that is started again
            models.symlink_to(placement.model.absolute(), target_is_directory=True)
        block = next(self._blocks)
        variables = container_variables(placement, port)
        own = str(Path(sys.executable).parent)
        return {
            **variables,
            "PATH": os.pathsep.join([own, variables.get("PATH", os.defpath)]),
            "SAGEMAKER_SAFE_PORT_RANGE": f"{block}-{block + _BLOCK - 1}",
            "SAGEMAKER_BASE_DIR": str(placement.folder.absolute()),
            "SM_MODEL_DIR": str(models.absolute()),
            "MME_BIND_HOST": "127.0.0.1",
        }


def require_architecture(image: str, instance_type: str | None) -> None:
    """Raise where an image is not built for an instance type, as far as its name tells.

    Raises
    ------
    ImageError
        It is not.
    """
    built = architecture_of(image)
    wanted = "arm64" if is_graviton(instance_type or "") else "x86_64"
    if built is None or built == wanted:
        return
    kind = instance_type or "A serverless endpoint"
    raise ImageError(
        f"{kind} is {wanted}, and the image is built for {built}: on AWS its container would end "
        "with 'exec format error'.",
        where=image,
        remedy="Choose an instance type of the other kind (ml.c7i is x86, ml.c7g is Graviton), or "
        "an image for this one.",
    )


def _rule_for(image: str) -> ImageRule:
    rule = ImageRules.read().find(image)
    if rule is None:
        raise ImageError(
            "No rule says what this image is, and it is not taken for DJL Serving.",
            where=image,
            remedy=f"mme images add '{image}' -- djl, if it is built on DJL Serving; -- mms "
            "HANDLER.py or -- COMMAND for another server. Or let Docker run the image itself: "
            "mme up --server docker.",
        )
    if rule.refusal:
        remedy = f"Or say what runs here: mme images add '{image}' -- COMMAND."
        raise ImageError(rule.refusal, where=image, remedy=remedy)
    return rule

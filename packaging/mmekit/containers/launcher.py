"""Containers of any image, as commands of this machine."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit.containers.images import ImageRules
from mmekit.endpoint.instances.launcher import (
    CommandLauncher,
    container_variables,
    launcher_named,
    start_process,
)
from mmekit.errors import ImageError
from mmekit.guard import Mark
from mmekit.ports import free_port

if TYPE_CHECKING:
    from mmekit.endpoint import Container, ContainerLauncher, Placement

__all__ = ["ImageLauncher", "launcher_for"]

logger = logging.getLogger("mmekit.endpoint")

_SAFE_PORTS = range(10_000, 20_000)
_BLOCK = 100  # of ports, for one container's own use


def launcher_for(server: str, *, installs: bool = True) -> ContainerLauncher:
    """Return the launcher for what ``mme up --server`` names.

    Parameters
    ----------
    server
        ``embedded`` or ``djl``: what images of DJL Serving are, and those that no rule is about;
        ``docker``: every image is itself.
    installs
        Whether the embedded server makes environments for models that ask for more than is here.

    Raises
    ------
    ImageError
        There is no such kind, or no Docker engine.
    """
    if server == "docker":
        from mmekit.containers.docker import DockerLauncher, require_docker

        require_docker()
        return DockerLauncher()
    return ImageLauncher(launcher_named(server, installs=installs), installs=installs)


class ImageLauncher:
    """Starts what images.json and the built-in rules say for an image.

    The file is read at every start of a container, so that a change counts without a restart of
    the service.

    Parameters
    ----------
    default
        Starts DJL Serving's images, and those that no rule is about.
    installs
        Whether the embedded server, where a rule names it, makes environments for models.
    """

    def __init__(self, default: ContainerLauncher, *, installs: bool = True) -> None:
        self._default = default
        self._installs = installs
        self._warned: set[str] = set()
        self._blocks = itertools.cycle(_SAFE_PORTS[::_BLOCK])

    async def launch(self, placement: Placement) -> Container:
        """Start the container that a placement's image stands for.

        Raises
        ------
        ImageError
            images.json is not what it may be, or names a program that is not there.
        OSError
            The command cannot be started.
        """
        rule = ImageRules.read().find(placement.image)
        if rule is None:
            self._warn(placement.image)
            return await self._default.launch(placement)
        program, *arguments = rule.words()
        # As in a container, where CreateModel's Environment overrules the image's.
        given = (*rule.environment, *placement.environment)
        placement = replace(placement, environment=given)
        if program == "djl":
            return await self._default.launch(placement)
        if program == "embedded":
            own = () if self._installs else ("--no-install",)
            embedded = (sys.executable, "-m", "mmekit.server", *own)
            return await CommandLauncher([*embedded, *arguments]).launch(placement)
        if program == "mms":
            program, arguments = sys.executable, ["-m", "mmekit.containers.mms", *arguments]
        port = free_port()
        variables = await asyncio.to_thread(self._variables, placement, port)
        found = shutil.which(program, path=variables["PATH"])
        if found is None:
            what = f"There is no program {program} to run for {placement.image}."
            remedy = "Install it, name it by its path, or change the rule."
            raise ImageError(what, where=str(rule.folder), remedy=remedy)
        command = [found, *arguments]
        mark = Mark.new()
        variables.update(mark.variables)
        return await start_process(command, variables, placement, port, afterwards=mark.sweep)

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
            models.unlink(missing_ok=True)
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

    def _warn(self, image: str) -> None:
        if not image or image in self._warned:
            return
        self._warned.add(image)
        logger.warning(
            "no rule says what %s is, so it is taken for DJL Serving. For another server: "
            "mme images add '%s' -- COMMAND; to confirm: mme images add '%s' -- djl",
            image,
            image,
            image,
        )

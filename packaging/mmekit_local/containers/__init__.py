"""Which server an image URI stands for, and how that server is started on this machine.

`images` is the table: the file images.json and what is built in. `launcher` starts what the table
says behind the local endpoint's seam for containers, `docker` starts the image itself, and `mms`
is Multi Model Server in an environment (`mms_environment`) that is made on first use. `ecr` builds
images and pushes them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mmekit_local.containers.images import BUILT_IN, ImageRule, ImageRules
from mmekit_local.containers.launcher import ImageLauncher
from mmekit_local.sagemaker.instances.launcher import launcher_named

if TYPE_CHECKING:
    from mmekit_local.sagemaker import ContainerLauncher

__all__ = ["BUILT_IN", "ImageLauncher", "ImageRule", "ImageRules", "launcher_for"]

logger = logging.getLogger("mmekit.endpoint")


def launcher_for(server: str, *, installs: bool = True) -> ContainerLauncher:
    """Return the launcher for what ``mme up --server`` names.

    Parameters
    ----------
    server
        ``embedded`` or ``djl``: what images of DJL Serving are; ``docker``: every image is itself.
    installs
        Whether the embedded server makes environments for models that ask for more than is here.

    Raises
    ------
    ImageError
        There is no such kind, or no Docker engine.
    """
    if server == "docker":
        from mmekit_local.containers.docker import DockerLauncher, remove_leftovers, require_docker

        require_docker()
        if left := remove_leftovers():
            logger.warning("removed what a service that was killed has left: %s", ", ".join(left))
        return DockerLauncher()
    return ImageLauncher(launcher_named(server, installs=installs), installs=installs)

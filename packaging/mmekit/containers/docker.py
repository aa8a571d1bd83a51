"""Containers that are containers: an image, run by the Docker engine of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import uuid
from typing import TYPE_CHECKING

from mmekit.containers.launcher import require_architecture
from mmekit.endpoint.instances.launcher import start_process
from mmekit.errors import ImageError
from mmekit.ports import free_port

if TYPE_CHECKING:
    from mmekit.endpoint import Container, Placement

__all__ = ["DockerLauncher", "require_docker", "run_command"]

_ANSWER_S = 20
_REMOVAL_S = 30
_SAFE_PORTS = "10000-10099"  # the container's own


def require_docker() -> None:
    """Make sure that a Docker engine answers.

    Raises
    ------
    ImageError
        There is no ``docker`` on PATH, or no engine behind it.
    """
    remedy = "Start Docker, or use --server embedded, which needs none."
    if shutil.which("docker") is None:
        raise ImageError("There is no docker.", where="PATH", remedy=remedy)
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_ANSWER_S)
    except subprocess.TimeoutExpired as error:
        what = f"Docker's engine did not answer within {_ANSWER_S} s."
        raise ImageError(what, where="docker version", remedy=remedy) from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["it does not answer"]
        what = f"There is no Docker engine: {lines[-1]}"
        raise ImageError(what, where="docker version", remedy=remedy) from error


def run_command(placement: Placement, port: int, name: str) -> list[str]:
    """Return the ``docker run`` for a container, which listens on loopback alone.

    The models lie under the same path inside and outside, because that is what the endpoint
    tells the container to load; a single-model container finds its model in /opt/ml/model.
    """
    models = placement.folder.absolute() / "models"
    mount = f"{models}:{models}"
    variables = {
        **dict(placement.environment),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "SAGEMAKER_SAFE_PORT_RANGE": _SAFE_PORTS,
    }
    if placement.model is None:
        variables["SAGEMAKER_MULTI_MODEL"] = "true"
    else:
        mount = f"{placement.model.absolute()}:/opt/ml/model"
    command = ["docker", "run", "--rm", "--name", name]
    command += ["--publish", f"127.0.0.1:{port}:{port}", "--volume", mount]
    for variable, value in variables.items():
        command += ["--env", f"{variable}={value}"]
    if placement.memory is not None:
        command += ["--memory", str(placement.memory)]
    if placement.vcpus is not None:
        command += ["--cpus", str(min(placement.vcpus, os.cpu_count() or 1))]
    return [*command, placement.image, "serve"]


class DockerLauncher:
    """Starts images with ``docker run``, which pulls those that are not here.

    The instances' folders must be where the engine can mount them: on macOS and with a remote
    engine that is not everywhere.
    """

    def require(self, image: str, instance_type: str | None) -> None:
        """Raise where the image is not built for the instance type.

        Raises
        ------
        ImageError
            It is not, or there is no image.
        """
        if not image:
            remedy = "Give CreateModel an Image, or use --server embedded."
            raise ImageError("The model has no image.", where="Image", remedy=remedy)
        require_architecture(image, instance_type)

    async def launch(self, placement: Placement) -> Container:
        """Start the placement's image.

        Raises
        ------
        ImageError
            The model has no image.
        OSError
            ``docker`` cannot be started.
        """
        if not placement.image:
            remedy = "Give CreateModel an Image, or use --server embedded."
            raise ImageError("The model has no image.", where=placement.label, remedy=remedy)
        port = free_port()
        name = f"mme-{uuid.uuid4().hex[:12]}"
        (placement.folder / "models").mkdir(parents=True, exist_ok=True)
        removal = ("docker", "rm", "--force", name)
        client = await start_process(
            run_command(placement, port, name), os.environ, placement, port, afterwards=removal
        )
        return _DockerContainer(client, removal)


class _DockerContainer:
    """A container of Docker's, seen through the client that is attached to it."""

    pid = None  # the engine's process is not ours to look at

    def __init__(self, client: Container, removal: tuple[str, ...]) -> None:
        self.host, self.port = client.host, client.port
        self._client = client
        self._removal = removal

    @property
    def obituary(self) -> str | None:
        return self._client.obituary

    async def ended(self) -> None:
        await self._client.ended()

    async def stop(self, seconds: float) -> None:
        # The client hands SIGTERM on; if it has to be killed, the container is still there.
        await self._client.stop(seconds)
        removing = await asyncio.create_subprocess_exec(
            *self._removal,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(removing.wait(), _REMOVAL_S)

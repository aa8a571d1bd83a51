"""Containers that are containers: an image, run by the Docker engine of this machine."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ipaddress
import logging
import os
import platform
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

from mmekit.errors import ImageError
from mmekit_local.containers.images import ImageRules
from mmekit_local.containers.launcher import require_architecture
from mmekit_local.ports import free_port
from mmekit_local.sagemaker.instances.launcher import start_process
from mmekit_local.scratch import ScratchFolder, is_owned
from mmekit_runtime.layers.holding import STORE_FOLDER, store_folders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit_local.sagemaker import Container, Placement

__all__ = [
    "INSIDE_PORT",
    "DockerLauncher",
    "HostGateway",
    "remove_leftovers",
    "require_docker",
    "run_command",
]

logger = logging.getLogger("mmekit.endpoint")

INSIDE_PORT = 8080
"""Where a container listens when nobody says otherwise, as SageMaker's documentation has it."""

ISOLATED_NETWORK = "mmekit-isolated"

_HOST = "host.docker.internal"
_HOST_OPTION = ("--add-host", f"{_HOST}:host-gateway")
"""For ``docker run``: how a container calls this machine, which Docker Desktop knows by itself."""
_BRIDGE = "{{range .IPAM.Config}}{{.Gateway}} {{.Subnet}}\n{{end}}"
_URL_VARIABLE = "AWS_ENDPOINT_URL"
_PIECE = 1 << 16

_ANSWER_S = 20
_REMOVAL_S = 30
_INTERVAL_S = 0.1
_SAFE_PORTS = "10000-10099"  # the container's own
_MACHINE_LABEL, _OWNER_LABEL = "mmekit.machine", "mmekit.owner"
_MIB = 1 << 20
_DJL_RESERVE_MB = 500  # what DJL Serving keeps free when nobody says otherwise


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
    try:
        _ask_docker("version", "--format", "{{.Server.Version}}")
    except subprocess.TimeoutExpired as error:
        what = f"Docker's engine did not answer within {_ANSWER_S} s."
        raise ImageError(what, where="docker version", remedy=remedy) from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["it does not answer"]
        what = f"There is no Docker engine: {lines[-1]}"
        raise ImageError(what, where="docker version", remedy=remedy) from error


def remove_leftovers() -> list[str]:
    """Remove containers of this machine whose service has ended without removing them.

    A service that is killed leaves a guard that does it at once; this is for what was killed with
    its guard, and for what the engine brought back.

    Returns
    -------
    list of str
        The names of those that were removed.
    """
    # An engine may serve other machines, whose scratch folders cannot be looked at here.
    machine = f"label={_MACHINE_LABEL}={platform.node()}"
    form = f'{{{{.Names}}}} {{{{.Label "{_OWNER_LABEL}"}}}}'
    listed = _ask_docker("ps", "--all", "--filter", machine, "--format", form).splitlines()
    pairs = [line.partition(" ") for line in listed]
    left = [name for name, _, owner in pairs if not is_owned(Path(owner))]
    if left:
        # One that goes by itself meanwhile is no error.
        command = ["docker", "rm", "--force", *left]
        subprocess.run(command, check=False, capture_output=True, timeout=_REMOVAL_S)
    return left


def run_command(placement: Placement, port: int, name: str, owner: Path) -> list[str]:
    """Return the ``docker run`` for a container, which is reached on loopback alone.

    Inside it listens on 8080: images that know SAGEMAKER_BIND_TO_PORT are told so, and DJL Serving,
    which does not know it, does so by itself. The models lie under the same path inside and
    outside, because that is what the endpoint tells the container to load; a single-model container
    finds its model in /opt/ml/model. Either can only be read, as on SageMaker, and so can the
    layers: they are beside the models, and where the runtime looks for those of a single one.

    Parameters
    ----------
    port
        Of loopback, outside; nothing is published of a container without a network.
    owner
        The scratch folder of the service that it belongs to.
    """
    models = inside = placement.folder.absolute() / "models"
    variables = {**placement.variables(), "SAGEMAKER_SAFE_PORT_RANGE": _SAFE_PORTS}
    if placement.model is None:
        variables["SAGEMAKER_MULTI_MODEL"] = "true"
    else:
        models, inside = placement.model.absolute(), Path("/opt/ml/model")
    if _is_djl_serving(placement.image):
        variables = {**_memory_of_djl_serving(placement), **variables}
    else:
        variables["SAGEMAKER_BIND_TO_PORT"] = str(INSIDE_PORT)
    command = ["docker", "run", "--rm", "--name", name]
    command += ["--label", f"{_MACHINE_LABEL}={platform.node()}"]
    command += ["--label", f"{_OWNER_LABEL}={owner}"]
    if placement.isolated:
        # From an internal network Docker publishes no port.
        command += ["--network", ISOLATED_NETWORK]
    else:
        command += ["--publish", f"127.0.0.1:{port}:{INSIDE_PORT}"]
    command += ["--mount", _read_only(models, inside)]
    layers = models.parent.parent / STORE_FOLDER
    if placement.model is not None and layers.is_dir():
        store, *_ = store_folders(str(inside), {})
        command += ["--mount", _read_only(layers, Path(store))]
    for variable, value in variables.items():
        command += ["--env", f"{variable}={value}"]
    if placement.account and not placement.isolated:
        command += _HOST_OPTION
    if placement.memory is not None:
        # With swap, which an instance has none of, it would be twice as much.
        command += ["--memory", str(placement.memory), "--memory-swap", str(placement.memory)]
    if placement.vcpus is not None:
        # Docker refuses more processors than there are.
        command += ["--cpus", str(min(placement.vcpus, os.cpu_count() or 1))]
    return [*command, placement.image, "serve"]


class DockerLauncher:
    """Starts images with ``docker run``, which pulls those that are not here.

    The instances' folders must be where the engine can mount them: on macOS and with a remote
    engine that is not everywhere.
    """

    def __init__(self) -> None:
        self._gateway = HostGateway()
        self._environ = dict(os.environ)  # the client's, which may log in to a registry
        self._owner = ScratchFolder("mme-docker-")
        atexit.register(self._owner.remove)

    def require(self, image: str, instance_type: str | None) -> None:
        """Raise where the image is not built for the instance type.

        Raises
        ------
        ImageError
            It is not, or there is no image.
        """
        _require_image(image, "Image")
        require_architecture(image, instance_type)

    async def launch(self, placement: Placement) -> Container:
        """Start the placement's image.

        Raises
        ------
        ImageError
            The model has no image, or is to have no network where that cannot be done.
        OSError
            ``docker`` cannot be started.
        """
        _require_image(placement.image, placement.label)
        if placement.isolated:
            await asyncio.to_thread(_require_isolated_network)
        else:
            placement = await self._gateway.reachable(placement)
        port = free_port()
        name = f"mme-{uuid.uuid4().hex[:12]}"
        models = placement.folder / "models"
        models.mkdir(parents=True, exist_ok=True)
        models.chmod(0o755)  # whoever the image's user is
        removal = ("docker", "rm", "--force", name)
        command = run_command(placement, port, name, self._owner.path)
        client = await start_process(command, self._environ, placement, port, afterwards=removal)
        container = _DockerContainer(client, removal)
        if placement.isolated:
            container.host = await _address(name, client) or client.host
            container.port = INSIDE_PORT
        return container


class _DockerContainer:
    """A container of Docker's, seen through the client that is attached to it."""

    pid = None  # the engine's process is not ours to look at

    def __init__(self, client: Container, removal: tuple[str, ...]) -> None:
        self.host, self.port = client.host, client.port
        self._client = client
        self._removal = removal

    @property
    def exit_reason(self) -> str | None:
        return self._client.exit_reason

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


def _require_image(image: str, where: str) -> None:
    if not image:
        remedy = "Give CreateModel an Image, or use --server embedded."
        raise ImageError("The model has no image.", where=where, remedy=remedy)


def _ask_docker(*words: str) -> str:
    """Return what docker answers."""
    command = ["docker", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_ANSWER_S)
    return done.stdout


def _read_only(outside: Path, inside: Path) -> str:
    """Return the mount of a folder of this machine."""
    return ",".join(["type=bind", _field("source", outside), _field("target", inside), "readonly"])


def _field(name: str, path: Path) -> str:
    # The option is a line of CSV.
    return '"' + f"{name}={path}".replace('"', '""') + '"'


def _is_djl_serving(image: str) -> bool:
    rule = ImageRules.read().find(image)
    return rule is not None and rule.command[:1] == ("djl",)


def _memory_of_djl_serving(placement: Placement) -> dict[str, str]:
    """Return what DJL Serving shall keep free, for it looks at the machine and at no limit.

    So it answers 507 when the instance's memory is short, as there, before the kernel kills what
    is in the container.
    """
    if placement.memory is None or not sys.platform.startswith("linux"):
        return {}
    others = psutil.virtual_memory().available - placement.memory
    return {"SERVING_RESERVED_MEMORY_MB": str(_DJL_RESERVE_MB + max(0, others // _MIB))}


def _require_isolated_network() -> None:
    """Make the network that leads nowhere, if it is not there yet.

    Raises
    ------
    ImageError
        It cannot be made, or containers on it could not be reached.
    """
    where = "EnableNetworkIsolation"
    remedy = "Create the model without it, or use an engine on a Linux machine of your own."
    if not sys.platform.startswith("linux"):
        what = "Without a network a container can be reached on Linux alone."
        raise ImageError(what, where=where, remedy=remedy)
    with contextlib.suppress(subprocess.CalledProcessError):
        _ask_docker("network", "inspect", ISOLATED_NETWORK)
        return
    # Otherwise isolated containers would reach each other.
    apart = "com.docker.network.bridge.enable_icc=false"
    try:
        _ask_docker("network", "create", "--internal", "--opt", apart, ISOLATED_NETWORK)
    except subprocess.CalledProcessError as error:
        if "already exists" in error.stderr:  # another instance was faster
            return
        what = f"Docker's engine makes no isolated network: {error.stderr.strip()}"
        raise ImageError(what, where=where, remedy=remedy) from error


async def _address(name: str, client: Container) -> str | None:
    """Return the address of a container on the isolated network; None when it has ended."""
    form = f'{{{{(index .NetworkSettings.Networks "{ISOLATED_NETWORK}").IPAddress}}}}'
    inspect: Sequence[str] = ("inspect", "--format", form, name)
    while client.exit_reason is None:
        # Until it has been made, and for as long as its image is being pulled, there is none.
        with contextlib.suppress(subprocess.CalledProcessError):
            if address := (await asyncio.to_thread(_ask_docker, *inspect)).strip():
                return address
        await asyncio.sleep(_INTERVAL_S)
    return None


class HostGateway:
    """Hands connections from Docker's own network on to the rehearsal, which listens on loopback.

    On Linux, containers reach this machine by their bridge's address, where the rehearsal does not
    listen; this listens there, and closes what comes from elsewhere: other machines may reach that
    address, too. Docker Desktop brings them to loopback by itself, and this machine
    has no such address.
    """

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()
        self._port: int | None = None

    async def reachable(self, placement: Placement) -> Placement:
        """Return a placement whose account is reached by the address that counts in a container."""
        account = dict(placement.account)
        url = account.get(_URL_VARIABLE)
        if url is None:
            return placement
        target = urlsplit(url)
        async with self._opening:
            if self._port is None:
                self._port = await self._open(target.hostname or "", target.port or 80)
        account[_URL_VARIABLE] = f"http://{_HOST}:{self._port}"
        return replace(placement, account=tuple(account.items()))

    def close(self) -> None:
        """Accept no more; what is under way goes on. The end of the process does it too."""
        if self._server is not None:
            self._server.close()

    async def _open(self, host: str, port: int) -> int:
        """Return the port on which containers reach what listens on a port of this machine."""
        found = await asyncio.to_thread(_bridge)
        if found is None:
            return port
        gateway, subnet = found

        async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = ipaddress.ip_address(writer.get_extra_info("peername")[0])
            if peer not in subnet:
                writer.close()
                return
            await _join(reader, writer, host, port)

        try:
            self._server = await asyncio.start_server(hand_on, gateway, 0)
        except OSError:  # the bridge is not this machine's: Docker Desktop
            return port
        own: int = self._server.sockets[0].getsockname()[1]
        logger.info("containers reach this service by %s:%d", gateway, own)
        return own


def _bridge() -> tuple[str, ipaddress.IPv4Network] | None:
    """Return the address of this machine on Docker's network, and that network."""
    command = ["docker", "network", "inspect", "bridge", "--format", _BRIDGE]
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_ANSWER_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError):
            gateway, subnet = line.split()
            return str(ipaddress.IPv4Address(gateway)), ipaddress.IPv4Network(subnet)
    return None


async def _join(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
) -> None:
    with contextlib.closing(writer):
        try:
            answers, asked = await asyncio.open_connection(host, port)
        except OSError:
            return
        with contextlib.closing(asked):
            await asyncio.gather(_pump(reader, asked), _pump(answers, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # either side may have gone
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

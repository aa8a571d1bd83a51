"""What a program has in its environment, so that AWS means the rehearsal to it and nothing else.

Those that ask are the command of ``mme up -- COMMAND`` and every notebook
(`program_environment`, and `enter` for this very process), a container that the rehearsal starts
(`container_environment`), a model that is measured (`without_account`), and the rehearsal itself
(`forget_account`). Nobody else says which variables lead to an account.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import shlex
import site
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "LOCAL_ROLE",
    "MARK",
    "STARTUP",
    "announcement",
    "container_environment",
    "enter",
    "forget_account",
    "is_entered",
    "leads_elsewhere",
    "past_proxies",
    "program_environment",
    "reachable_url",
    "without_account",
]

MARK = "MMEKIT_REHEARSAL"
"""The variable that says where the rehearsal is, to those who are in one."""

LOCAL_ROLE = "mmekit-rehearsal"
"""The role of who comes with credentials that the rehearsal has not made."""

STARTUP = Path(__file__).with_name("startup")
"""A folder for PYTHONPATH, whose sitecustomize is what Python runs when it starts."""

# fsspec takes s3fs's keys and endpoint from variables of its own (FSSPEC_S3_KEY and so on).
_OF_AWS = ("AWS_", "FSSPEC_S3")
_OF_AWS_TOO = frozenset({"BOTO_CONFIG", "FSSPEC_CONFIG_DIR", "S3_ENDPOINT_URL", MARK})
_HABITS = frozenset(
    {
        "AWS_CA_BUNDLE",
        "AWS_CLI_AUTO_PROMPT",
        "AWS_CLI_FILE_ENCODING",
        "AWS_DATA_PATH",
        "AWS_DEFAULTS_MODE",
        "AWS_DEFAULT_OUTPUT",
        "AWS_MAX_ATTEMPTS",
        "AWS_PAGER",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "AWS_RESPONSE_CHECKSUM_VALIDATION",
        "AWS_RETRY_MODE",
    }
)
"""What a user may have chosen that leads nowhere: it counts for a program, not for a container."""
_LEADING = ("AWS_ENDPOINT_URL", "AWS_CONTAINER_", "AWS_EC2_METADATA_")
_LEADING_TOO = frozenset(
    {
        "AWS_CONFIG_FILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
        "AWS_PROFILE",
        "AWS_SHARED_CREDENTIALS_FILE",
    }
)
_NOTHING = {
    # Not left out: without these variables boto3 reads ~/.aws.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    # On an instance of EC2 this service would hand out the instance's own role.
    "AWS_EC2_METADATA_DISABLED": "true",
    "FSSPEC_CONFIG_DIR": os.devnull,  # whose files may have keys and an endpoint for s3fs
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Some programs read the one, some the other.
_NO_PROXY = ("no_proxy", "NO_PROXY")


def program_environment(environ: Mapping[str, str], url: str, region: str) -> dict[str, str]:
    """Return an environment in which any client of AWS reaches the rehearsal.

    Credentials are made up; there is no profile, no file of credentials and no metadata service,
    and nothing that names another endpoint, for one service or for all. In Python, SageMaker's
    SDKs find STS here as well: they name its address themselves.

    Parameters
    ----------
    environ
        What it is made of; everything that is not about AWS stays.
    url, region
        Where the rehearsal is.
    """
    kept = {name: value for name, value in environ.items() if not _is_of_aws(name, _HABITS)}
    return {**kept, **_variables(url, region), **past_proxies(kept, url), **_hooked(kept)}


def enter(url: str, region: str) -> None:
    """Let AWS mean the rehearsal to this process, and to those that it starts from now on."""
    if os.environ.get(MARK) == url:
        return
    changed = program_environment(os.environ, url, region)
    for name in set(os.environ) - set(changed):
        del os.environ[name]
    os.environ.update(changed)
    spec = importlib.util.spec_from_file_location("_mmekit_startup", STARTUP / "sitecustomize.py")
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    if "boto3" in sys.modules:  # its session may have looked for credentials already
        vars(sys.modules["boto3"])["DEFAULT_SESSION"] = None


def forget_account() -> None:
    """Take what leads to an account out of this process's environment.

    For the rehearsal itself, whose parts look for a profile where they need none.
    """
    for name in [name for name in os.environ if _is_of_aws(name, frozenset())]:
        del os.environ[name]
    os.environ.update(_NOTHING)


def without_account(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment from which nothing leads to an account.

    Where AWS is something on this machine, a rehearsal for instance, it stays so.
    """
    host = urlsplit(environ.get("AWS_ENDPOINT_URL", "")).hostname
    if host not in _LOOPBACK:
        kept = {name: value for name, value in environ.items() if not _is_of_aws(name, _HABITS)}
    else:
        kept = {
            name: value
            for name, value in environ.items()
            if name == "AWS_ENDPOINT_URL" or not leads_elsewhere(name)
        }
    return {**kept, **_NOTHING}


def is_entered(environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether AWS means a rehearsal to a program with such an environment."""
    url = environ.get(MARK)
    return bool(url) and environ.get("AWS_ENDPOINT_URL") == url


def container_environment(environ: Mapping[str, str], home: Path, url: str = "") -> dict[str, str]:
    """Return what a container that is a process of this machine has of a user's environment.

    That is everything but what is about AWS, and but the home folder, which has ``.aws`` in it.
    What programs look for in it and is no secret of AWS's (caches, settings of pip and uv,
    packages that were installed for this user) is named where it is.

    Parameters
    ----------
    environ
        The user's.
    home
        An empty folder.
    url
        Where the rehearsal is: no proxy stands before it.
    """
    kept = {
        name: str(Path(value).expanduser()) if _is_of_home(name, value) else value
        for name, value in environ.items()
        if not _is_of_aws(name, frozenset())
    }
    folders = {
        "XDG_CACHE_HOME": platformdirs.user_cache_dir(),
        "XDG_CONFIG_HOME": platformdirs.user_config_dir(),
        "XDG_DATA_HOME": platformdirs.user_data_dir(),
        "PYTHONUSERBASE": site.getuserbase(),
    }
    paths = [path for path in kept.pop("PYTHONPATH", "").split(os.pathsep) if path]
    paths = [path for path in paths if Path(path) != STARTUP]
    variables = {**folders, **kept, **past_proxies(kept, url), "HOME": str(home)}
    if paths:
        variables["PYTHONPATH"] = os.pathsep.join(paths)
    return variables


def leads_elsewhere(name: str) -> bool:
    """Say whether a variable would take a client of AWS in a container or function elsewhere."""
    return name.startswith(_LEADING) or name in _LEADING_TOO


def past_proxies(environ: Mapping[str, str], url: str) -> dict[str, str]:
    """Return what keeps requests to the rehearsal away from a proxy, where variables name one."""
    if not any(name.lower().endswith("_proxy") for name in environ):
        return {}
    said = next((environ[name] for name in _NO_PROXY if environ.get(name)), "")
    host = url.rpartition(":")[0].partition("://")[2].strip("[]")
    names = [*(name.strip() for name in said.split(",")), *_LOOPBACK, host]
    return dict.fromkeys(_NO_PROXY, ",".join(dict.fromkeys(filter(None, names))))


def announcement(url: str, region: str) -> tuple[str, ...]:
    """Return the lines for a shell that do by hand what `program_environment` does."""
    path = f"export PYTHONPATH={shlex.quote(str(STARTUP))}${{PYTHONPATH:+:$PYTHONPATH}}"
    return (
        f"export AWS_ENDPOINT_URL={url}",
        "export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local",
        f"export AWS_DEFAULT_REGION={region}",
        "unset AWS_PROFILE AWS_SESSION_TOKEN",
        f"{path}  # for SageMaker's SDKs",
    )


def reachable_url(host: str, port: int) -> str:
    """Return the URL under which this machine reaches what listens on a host."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    is_v4 = isinstance(address, ipaddress.IPv4Address)
    if address.is_unspecified:  # stands for every interface; nobody can be sent there
        host = "127.0.0.1" if is_v4 else "::1"
    return f"http://{host}:{port}" if is_v4 else f"http://[{host}]:{port}"


def _variables(url: str, region: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,  # the one that boto3 reads
        **_NOTHING,
        "MME_LOCAL_URL": url,
        MARK: url,
    }


def _is_of_aws(name: str, excepted: frozenset[str]) -> bool:
    named = name.upper()  # what is not read is left out as well
    return (named.startswith(_OF_AWS) or named in _OF_AWS_TOO) and name not in excepted


def _is_of_home(name: str, value: str) -> bool:
    return name.startswith("MMEKIT_") and value.startswith("~/")


def _hooked(environ: Mapping[str, str]) -> dict[str, str]:
    paths = environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in paths if path and Path(path) != STARTUP]
    return {"PYTHONPATH": os.pathsep.join([str(STARTUP), *others])}

"""Whose requests are answered: programs', and of all pages in a browser only the server's own.

Both servers have no password, and a browser on the same machine reaches them as its user does. A
page of a stranger must not: it can send most requests without asking, only not read the answers,
and with a DNS of its own it can do even that. So every request is looked at once its headers are
there, whatever its path, before any of its body is read:

- Host must be a name that no stranger's DNS can give this server (against DNS rebinding);
- Origin, which a page cannot leave out, must be that of this server;
- Sec-Fetch-Site, which a browser adds where there is no Origin, must not say another site.

A program sends neither of the last two, and some send no Host; no browser leaves that out.

Sources: the Fetch standard ("Origin header"), Fetch Metadata Request Headers (W3C), RFC 6761 for
localhost, and ICANN's reservation of .internal for private use.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
from typing import TYPE_CHECKING, NamedTuple

from mmekit.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmekit_local.http.messages import RawHeaders

__all__ = ["VARIABLE", "OriginPolicy", "Rejection"]

_logger = logging.getLogger("mmekit.http")

VARIABLE = "MMEKIT_ALLOWED_HOSTS"

_OURS = ("localhost", "host.docker.internal", "host.containers.internal")
"""The last two are what containers of Docker and of Podman call this machine."""
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]*)?")
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?")
_PORTS = {"http": ":80", "https": ":443"}
_LENGTHS = frozenset(map(len, ("host", "origin", "sec-fetch-site")))
"""The lengths of the headers that matter: most others are told apart by theirs."""
# Not same-site: to a browser, all ports of localhost are one site.
_OWN_SITES = (b"same-origin", b"none")
_SHOWN = 100  # characters of what a client sent
# Hosts known to be right, and rejections in the log: bounded, as clients make them up.
_REMEMBERED = 100


class Rejection(NamedTuple):
    """Why a request is not answered.

    Attributes
    ----------
    status
        403, or 400 for what is no request.
    message
        What is wrong, and the remedy.
    """

    status: int
    message: str


class OriginPolicy:
    """Says which requests a server answers.

    Parameters
    ----------
    address
        What the server is bound to. That of every interface stands for every address, and one that
        is not loopback's for the name of this machine.
    names
        Further names and addresses of this server. Of a name, all those below it count as well:
        S3's clients write a bucket's before it.
    linkable
        Paths that a link on any page may lead to: nothing happens there, and whoever sent the
        visitor sees nothing of the answer.

    Examples
    --------
    >>> policy = OriginPolicy()
    >>> policy.rejection(b"GET", b"/", [(b"Host", b"bucket.localhost:8950")])
    >>> policy.rejection(b"GET", b"/", [(b"Host", b"stranger.example")]).status
    403
    """

    def __init__(
        self, address: str = "127.0.0.1", names: Iterable[str] = (), linkable: Iterable[str] = ()
    ) -> None:
        bound = _address(address)
        self._everywhere = bound is not None and bound.is_unspecified
        known = {*_OURS, *map(_plain, (*names, address))}
        if bound is not None and not bound.is_loopback:
            machine = socket.gethostname().lower()
            # With mDNS, .local is how neighbours call it.
            known |= {machine, f"{machine}.local"}
        self._names = frozenset(known - {""})
        self._below = tuple(f".{name}" for name in self._names if _address(name) is None)
        self._linkable = frozenset(path.encode() for path in linkable)
        self._known: set[bytes] = set()
        self._logged: set[str] = set()

    @classmethod
    def of(cls, host: str, address: str, linkable: Iterable[str] = ()) -> OriginPolicy:
        """Return the policy of a server with the names that its user gives it.

        Parameters
        ----------
        host
            What ``--host`` says.
        address
            What this means: the address that the server is bound to.
        linkable
            As above.

        Raises
        ------
        SettingsError
            ``MMEKIT_ALLOWED_HOSTS`` has something that is no name.
        """
        return cls(address, [host, *_named(os.environ.get(VARIABLE, ""))], linkable)

    def rejection(self, method: bytes, target: bytes, headers: RawHeaders) -> Rejection | None:
        """Return why a request is rejected; None for one that is answered."""
        host: bytes | None = None
        page: list[tuple[bytes, bytes]] = []
        for name, value in headers:
            if len(name) not in _LENGTHS:
                continue
            lower = name.lower()
            if lower != b"host":
                page.append((lower, value))
            elif host is None:
                host = value
            else:  # RFC 9112, 3.2
                return Rejection(400, "A request has one Host header, and not several.")
        if host is not None and not self._is_ours(host):
            return self._rejection(_about_host(host))
        sender = _other_sender(page, host or b"")
        if sender is None or self._is_navigation(method, target, headers):
            return None
        return self._rejection(_about_page(sender))

    def _is_ours(self, host: bytes) -> bool:
        if host in self._known:
            return True
        if not self._has(host.decode("latin-1").lower()):
            return False
        if len(self._known) < _REMEMBERED:
            self._known.add(host)
        return True

    def _has(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        # A name with a dot at its end is the same name, as DNS has it in full.
        name = (match[1] or match[2]).removesuffix(".")
        address = _address(name)
        if address is None:
            return name in self._names or name.endswith(self._below)
        return address.is_loopback or self._everywhere or str(address) in self._names

    def _is_navigation(self, method: bytes, target: bytes, headers: RawHeaders) -> bool:
        """Say whether somebody follows a link, in a tab of its own, to what anybody may visit."""
        if method != b"GET" or target not in self._linkable:
            return False
        told = {name.lower(): value for name, value in headers}
        top = told.get(b"sec-fetch-dest") == b"document" and b"origin" not in told
        return top and told.get(b"sec-fetch-mode") == b"navigate"

    def _rejection(self, message: str) -> Rejection:
        """Log it, once: those whom it concerns may never see an answer."""
        if message not in self._logged and len(self._logged) < _REMEMBERED:
            self._logged.add(message)
            _logger.warning("a request is refused: %s", message)
        return Rejection(403, message)


def _about_host(host: bytes) -> str:
    return (
        f"{_shown(host)} is not known as a name of this server, and a page whose DNS has been made "
        "to lead here would use such a name. Use localhost or 127.0.0.1, or let the variable "
        f"{VARIABLE} name it where the server is started."
    )


def _about_page(whose: str) -> str:
    return (
        f"A page in a browser ({whose}) sent this, and it is not this server's own. Open the "
        "address in a tab of its own, or send the request from a program."
    )


def _other_sender(told: list[tuple[bytes, bytes]], host: bytes) -> str | None:
    """Return whose page sent a request, if it is not that of the host; headers in lower case."""
    for name, value in told:
        if name == b"origin" and not _is_origin(value, host):
            return _shown(value)
        if name == b"sec-fetch-site" and value not in _OWN_SITES:
            return "of another site"
    return None


def _is_origin(origin: bytes, host: bytes) -> bool:
    """Say whether an origin is that of what a Host header names."""
    scheme, _, authority = origin.decode("latin-1").lower().partition("://")
    port = _PORTS.get(scheme)
    if port is None or not authority:  # "null" as well: a page without an origin
        return False
    # Browsers leave out the port that belongs to the scheme; others may write it.
    return authority.removesuffix(port) == host.decode("latin-1").lower().removesuffix(port)


def _named(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not _NAME.fullmatch(name.lower()) and _address(_plain(name)) is None:
            raise SettingsError(
                f"{VARIABLE} has {name!r}, which is no name of a machine.",
                where=VARIABLE,
                remedy="Set it to names or addresses with commas between, without ports, such as "
                "build-machine.example,10.0.0.7.",
            )
    return names


def _plain(name: str) -> str:
    """Return a name, or an address, in the one way in which it is compared."""
    name = name.lower().removeprefix("[").removesuffix("]")
    address = _address(name)
    return name if address is None else str(address)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    # ::ffff:127.0.0.1 is what an IPv6 socket calls 127.0.0.1.
    return getattr(address, "ipv4_mapped", None) or address


def _shown(value: bytes) -> str:
    return ascii(value.decode("latin-1"))[1:-1][:_SHOWN] or "nothing"

"""A network of our own that has nothing but loopback, for servers that listen wherever they can.

Ray's services listen on every interface, whatever address they are told (seen with 2.60). In a
network namespace there is no other interface. It needs no rights: a user namespace gives them
(user_namespaces(7) and network_namespaces(7) of Linux).

``python loopback.py COMMAND …`` runs a command in one.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

_NEWUSER, _NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914  # linux/sockios.h
_IFF_UP = 1  # linux/if.h
_IFREQ = "16sH22x"


def alone() -> bool:
    """Say whether there is no other network here."""
    return {name for _, name in socket.if_nameindex()} <= {"lo"}


def main() -> None:
    """Become the command that the arguments name, with loopback alone where that is possible."""
    # It has to be a process of one thread: numpy, for instance, starts others.
    _confine()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606


def _confine() -> None:
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None)
    if not sys.platform.startswith("linux") or libc.unshare(_NEWUSER | _NEWNET) != 0:
        return
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _, flags = struct.unpack(_IFREQ, fcntl.ioctl(control, _SIOCGIFFLAGS, _request(0)))
        fcntl.ioctl(control, _SIOCSIFFLAGS, _request(flags | _IFF_UP))


def _request(flags: int) -> bytes:
    return struct.pack(_IFREQ, b"lo", flags)


if __name__ == "__main__":
    main()

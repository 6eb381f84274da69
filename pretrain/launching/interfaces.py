"""Network interfaces of this machine, and the variables of the environment that choose among them."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import psutil  # type: ignore[import-untyped]

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
"""Environment variable. Without it gloo uses the address of the host's name, which is often loopback."""
NCCL_INTERFACE = "NCCL_SOCKET_IFNAME"
"""Environment variable: names of interfaces, their beginnings, `=` and exact names, or `^` and names to leave out."""


def check_interfaces(environment: Mapping[str, str], gpus: bool) -> None:
    """Raise ValueError that names the variable if it names a network interface that this machine does not have.

    gpus: the ranks are on GPUs, and use NCCL; else gloo.
    """
    variable = NCCL_INTERFACE if gpus else GLOO_INTERFACE
    value = environment.get(variable, "")
    names = value.removeprefix("=").split(",") if value[:1] != "^" else []
    prefixes = gpus and value[:1] != "="
    known = sorted(interfaces())
    for name in filter(None, names):
        if not any(found.startswith(name) if prefixes else found == name for found in known):
            remedy = f"set it to one of {', '.join(known)}, or unset it"
            raise ValueError(f"{variable}={value}: there is no network interface {name} with an address here: {remedy}")


def check_master(host: str) -> None:
    """Raise ValueError if `cluster.master` is a name that nobody knows. A silent name server may answer later."""
    try:
        socket.getaddrinfo(host, None)
    except (socket.gaierror, UnicodeError) as error:
        if getattr(error, "errno", None) != socket.EAI_AGAIN:
            raise ValueError(f"cluster.master={host}: no such host ({error}): give the address of node 0") from None


def interfaces() -> dict[str, list[str]]:
    """Addresses of IP by network interface, for the interfaces that have any."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = {
        name: [entry.address.partition("%")[0] for entry in entries if entry.family in families]
        for name, entries in psutil.net_if_addrs().items()
    }
    return {name: addresses for name, addresses in found.items() if addresses}

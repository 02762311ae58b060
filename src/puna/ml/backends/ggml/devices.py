"""The devices that ggml offers, and how many cores the processor has."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from puna.errors import BackendError, InvalidOption
from puna.ggml import access
from puna.ggml.enums import BackendDevType

if TYPE_CHECKING:
    from puna.ggml import Library

_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Device:
    """One device of ggml.

    Attributes:
        handle: its `ggml_backend_dev_t`.
        name: as ggml labels it, e.g. "CPU", "CUDA0", "RPC0".
        description: what it is, e.g. the processor's name.
        uuid: lasting identifier, empty if it has none.
        is_cpu: whether it is the processor.
    """

    handle: int
    name: str
    description: str
    uuid: str
    is_cpu: bool


def processor(library: Library) -> Device:
    """The CPU."""
    return next(device for device in all_devices(library) if device.is_cpu)


def accelerators(library: Library, rpc_servers: Sequence[str]) -> list[Device]:
    """Every device with memory of its own: the local ones in ggml's order, then those of RPC servers.

    Raises:
        BackendError: a server does not answer, or this ggml was built without RPC.
    """
    local = [device for device in all_devices(library) if not device.is_cpu]
    for server in rpc_servers:
        _require_listening(server)
    handles = [handle for server in rpc_servers for handle in access.rpc_devices(library, server)]
    return [*local, *(_device(library, handle) for handle in handles)]


def _require_listening(endpoint: str) -> None:
    """Asks for a connection before ggml does, which ends the process when there is none."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidOption(f"{endpoint!r} is not the address of an RPC server: write host:port")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise BackendError(f"no RPC server answers at {endpoint}: {error}") from error


def all_devices(library: Library) -> list[Device]:
    """CPU, GPUs and RPC devices; not helpers of the CPU such as BLAS."""
    handles = [library.ggml_backend_dev_get(index) for index in range(library.ggml_backend_dev_count())]
    helper = BackendDevType.ACCEL
    return [_device(library, h) for h in handles if library.ggml_backend_dev_type(h) != helper]


def _device(library: Library, handle: int) -> Device:
    return Device(
        handle=handle,
        name=library.ggml_backend_dev_name(handle).decode(),
        description=library.ggml_backend_dev_description(handle).decode(),
        uuid=access.device_id(library, handle),
        is_cpu=library.ggml_backend_dev_type(handle) == BackendDevType.CPU,
    )


def physical_cores() -> int:
    """Cores this process may run on, counting those that share a core once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    return len({_core(cpu) for cpu in usable}) or 1


def _core(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)

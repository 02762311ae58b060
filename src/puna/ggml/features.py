"""What the loaded ggml is and can do, and what a better one would give."""

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from puna.ggml import access, processor
from puna.ggml.enums import BackendDevType
from puna.ggml.layouts import ggml_backend_feature

if TYPE_CHECKING:
    from puna.ggml.library import Library

NEWEST = (0, 25)  # what ./native builds

_GetFeatures = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


@dataclass(frozen=True, slots=True)
class Device:
    """One device of ggml. `kind` is cpu, gpu, igpu, accel or meta; memory is in bytes."""

    name: str
    description: str
    kind: str
    memory_free: int
    memory_total: int


@dataclass(frozen=True, slots=True)
class Features:
    """The library in use.

    Attributes:
        origin: see `puna.ggml.Candidate.origin`.
        folder: the folder of its files.
        version: for instance "0.25.3".
        backends: its backends and each one's compiled-in features, e.g. {"CPU": ("AVX2", "LLAMAFILE")}.
        buffer_types: weight layouts of the CPU besides the plain one, e.g. ("CPU_REPACK",).
        rpc: whether it can use devices of other machines.
        devices: every device it found.
        processor: what this processor has, None if the system does not tell.
    """

    origin: str
    folder: str
    version: str
    backends: dict[str, tuple[str, ...]]
    buffer_types: tuple[str, ...]
    rpc: bool
    devices: tuple[Device, ...]
    processor: frozenset[str] | None

    @property
    def cpu(self) -> frozenset[str]:
        """The CPU backend's features."""
        return frozenset(self.backends.get("CPU", ()))


@dataclass(frozen=True, slots=True)
class Advice:
    """Something the library lacks, and the command in Puna's source folder that installs a better one."""

    lack: str
    command: str


NATIVE = "pip install -r requirements.txt"


def inspect(library: "Library") -> Features:
    """Asks the library for everything."""
    devices = [library.ggml_backend_dev_get(index) for index in range(library.ggml_backend_dev_count())]
    cpus = [device for device in devices if library.ggml_backend_dev_type(device) == BackendDevType.CPU]
    extra = [kind for cpu in cpus for kind in access.extra_buffer_types(library, cpu)]
    return Features(
        origin=library.origin,
        folder=str(library.folder),
        version=library.version_text,
        backends=_backends(library),
        buffer_types=tuple(library.ggml_backend_buft_name(kind).decode() for kind in extra),
        rpc=library.has("ggml_backend_rpc_add_server"),
        devices=tuple(_device(library, device) for device in devices),
        processor=processor.features(),
    )


def advice(features: Features) -> list[Advice]:
    """What this library lacks on this processor, most valuable first."""
    lacks = []
    unused = sorted((features.processor or frozenset()) - features.cpu)
    wide = [name for name in unused if name.startswith(("AVX", "AMX", "DOTPROD", "MATMUL", "SVE", "FP16"))]
    if wide:
        lacks.append(f"this processor has {', '.join(wide)}, which the library does not use")
    if "LLAMAFILE" not in features.cpu:
        lacks.append("without tinyBLAS prompts of F32, F16 and Q8_0 models are read more slowly")
    if tuple(map(int, features.version.split(".")[:2])) < NEWEST:
        lacks.append("ggml 0.25 reads prompts of K-quantised models (Q4_K_M, Q6_K …) several times faster")
    if not features.buffer_types:
        lacks.append("without repacked weights prompts of Q4_0 and Q4_K models are read more slowly")
    if not features.rpc:
        lacks.append("built without RPC, it cannot use devices of other machines")
    command = f"unset PUNA_GGML_PATH; {NATIVE}" if features.origin == "path" else NATIVE
    return [Advice(lack, command) for lack in lacks]


def _backends(library: "Library") -> dict[str, tuple[str, ...]]:
    registries = [library.ggml_backend_reg_get(index) for index in range(library.ggml_backend_reg_count())]
    return {library.ggml_backend_reg_name(reg).decode(): _compiled(library, reg) for reg in registries}


def _compiled(library: "Library", registry: int) -> tuple[str, ...]:
    """The names of a backend's features; a feature with a value other than 1 as `NAME=value`."""
    address = library.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_get_features")
    found: list[str] = []
    entry = _GetFeatures(address)(registry) if address else None
    while entry:
        feature = ggml_backend_feature.from_address(entry)
        if not feature.name:
            break
        name, value = feature.name.decode(), feature.value.decode()
        found += [name if value == "1" else f"{name}={value}"] if value != "0" else []
        entry += ctypes.sizeof(ggml_backend_feature)
    return tuple(found)


def _device(library: "Library", device: int) -> Device:
    free, total = access.device_memory(library, device)
    return Device(
        name=library.ggml_backend_dev_name(device).decode(),
        description=library.ggml_backend_dev_description(device).decode(),
        kind=BackendDevType(library.ggml_backend_dev_type(device)).name.lower(),
        memory_free=free,
        memory_total=total,
    )

"""What the processor can do, in ggml's words, beside what a build of ggml was compiled for."""

import platform
import sys
from functools import cache
from pathlib import Path

# ggml's name of a feature: how /proc/cpuinfo names it, how macOS's sysctl does
X86 = {
    "SSE3": ("pni", "SSE3"),
    "SSSE3": ("ssse3", "SSSE3"),
    "AVX": ("avx", "AVX1.0"),
    "AVX2": ("avx2", "AVX2"),
    "F16C": ("f16c", "F16C"),
    "FMA": ("fma", "FMA"),
    "BMI2": ("bmi2", "BMI2"),
    "AVX_VNNI": ("avx_vnni", ""),
    "AVX512": ("avx512f", "AVX512F"),
    "AVX512_VBMI": ("avx512vbmi", "AVX512VBMI"),
    "AVX512_VNNI": ("avx512_vnni", "AVX512VNNI"),
    "AVX512_BF16": ("avx512_bf16", ""),
    "AMX_INT8": ("amx_int8", ""),
}
ARM = {
    "NEON": ("asimd", "AdvSIMD"),
    "FP16_VA": ("asimdhp", "FEAT_FP16"),
    "DOTPROD": ("asimddp", "FEAT_DotProd"),
    "MATMUL_INT8": ("i8mm", "FEAT_I8MM"),
    "SVE": ("sve", ""),
    "SME": ("sme", "FEAT_SME"),
}

_CPUINFO = Path("/proc/cpuinfo")
_FIRST_PROCESSOR = 8192  # bytes: the list repeats for every processor


def names() -> dict[str, tuple[str, str]]:
    """The features that matter on this architecture; empty on others."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return X86
    return ARM if machine in ("aarch64", "arm64") else {}


def features() -> frozenset[str] | None:
    """The features this processor has, by ggml's names; None where the system does not tell."""
    known = names()
    flags = _flags() if known else None
    if flags is None:
        return None
    column = 1 if sys.platform == "darwin" else 0
    return frozenset(name for name, spellings in known.items() if spellings[column] in flags)


@cache
def vendor() -> str:
    """Who made the processor, as CPUID spells it; empty where the system does not tell."""
    return _told("vendor_id") or ""


def _flags() -> frozenset[str] | None:
    if sys.platform == "darwin":
        return _sysctl()
    listed = _told("flags", "Features")
    return None if listed is None else frozenset(listed.split())


def _told(*names: str) -> str | None:
    """What Linux tells of the first processor under the first of these names that it has."""
    try:
        with _CPUINFO.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_FIRST_PROCESSOR)
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return None


def _sysctl() -> frozenset[str] | None:
    """Intel Macs list names, Apple silicon has one `hw.optional.arm.NAME: 1` a feature."""
    import subprocess  # only here: it takes longer to import than ggml to load

    command = ["/usr/sbin/sysctl", "machdep.cpu.features", "machdep.cpu.leaf7_features", "hw.optional"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    found: set[str] = set()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        found |= set(value.split()) if name.startswith("machdep") else set()
        if value.strip() == "1":
            found.add(name.rpartition(".")[2])
    return frozenset(found)

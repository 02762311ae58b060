"""Where the ggml C library's files are: a folder of the user's own, or an installed package."""

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from puna.errors import BackendError

PREFIX, SUFFIX = {"win32": ("", ".dll"), "darwin": ("lib", ".dylib")}.get(sys.platform, ("lib", ".so"))


@dataclass(frozen=True, slots=True)
class Package:
    """An installed distribution that may hold ggml.

    Attributes:
        name: the import package.
        distribution: the name pip knows.
        oldest: the first release whose ggml Puna can use.
        folders: folders inside the package that may hold the libraries.
    """

    name: str
    distribution: str
    oldest: tuple[int, ...]
    folders: tuple[str, ...]


PACKAGES = (
    Package("puna_ggml", "puna-ggml", (0, 15), ("lib",)),
    Package("ggml", "ggml-python", (0, 0, 45), ("lib", "lib64", "bin")),
    Package("libggml", "libggml-python", (0, 15), ("lib64", "lib", "bin")),
)
"""Best first: compiled for this processor from the newest source, for it from an older one, prebuilt."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A folder that holds ggml's shared libraries.

    Attributes:
        origin: `path` (given by the caller or by PUNA_GGML_PATH), or the distribution that installed it.
        folder: absolute path of the folder.
        record: what the installer has noted of the distribution's files, if it has.
    """

    origin: str
    folder: Path
    record: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The libraries to open, each after those it depends on; the last is ggml itself.

        A build whose backends are loaded at run time has no plain libggml-cpu; its backends are not listed
        here, since ggml itself picks the ones that fit the processor.
        """
        name = f"{PREFIX}ggml"
        ggml, base, cpu = (self.folder / f"{name}{part}{SUFFIX}" for part in ("", "-base", "-cpu"))
        if not base.exists():
            return (ggml,)
        if not cpu.exists():
            return (base, ggml)
        others = sorted(self.folder.glob(f"{name}-*{SUFFIX}"))
        backends = [file for file in others if file not in (base, cpu) and "-cpu-" not in file.name]
        return (base, cpu, *backends, ggml)


def holds_ggml(folder: Path) -> bool:
    """Whether the folder has a shared library of ggml."""
    return (folder / f"{PREFIX}ggml{SUFFIX}").is_file()


def user_candidate(path: Path) -> Candidate:
    """The folder that the user named, or its lib, lib64 or bin.

    Raises:
        BackendError: no such folder, or none of these holds ggml.
    """
    folder = path.expanduser().absolute()
    if not folder.is_dir():
        wanted = f"PUNA_GGML_PATH must name the one that holds {PREFIX}ggml{SUFFIX}"
        raise BackendError(f"{folder} is not a folder; {wanted}")
    for inner in (folder, *(folder / name for name in ("lib", "lib64", "bin"))):
        if holds_ggml(inner):
            return Candidate("path", inner)
    raise BackendError(
        f"{folder} holds no {PREFIX}ggml{SUFFIX}; point PUNA_GGML_PATH at a shared build of ggml"
    )


def metadata_folder(root: Path, distribution: str) -> Path | None:
    """The metadata of the distribution installed beside a package's folder, None when there is none.

    Looked for by its name: importing importlib.metadata costs more than loading ggml.
    """
    return next(root.parent.glob(f"{distribution.replace('-', '_')}-*.dist-info"), None)


def release(metadata: Path) -> tuple[int, ...]:
    """The release that a metadata folder is of, from its name."""
    text = metadata.name.removesuffix(".dist-info").rpartition("-")[2]
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def installed_candidate(package: Package) -> Candidate | None:
    """A package with its libraries; None when it is not installed, too old, or holds none."""
    spec = importlib.util.find_spec(package.name)
    for root in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
        metadata = metadata_folder(root, package.distribution)
        if metadata is None or release(metadata) < package.oldest:
            continue
        for folder in package.folders:
            if holds_ggml(root / folder):
                record = metadata / "RECORD"
                return Candidate(package.distribution, root / folder, record if record.exists() else None)
    return None


def installed_candidates() -> list[Candidate]:
    """The installed packages that hold a ggml Puna can use, best first, found without importing them."""
    return [found for package in PACKAGES if (found := installed_candidate(package))]


def candidates(path: Path | None) -> list[Candidate]:
    """Every ggml that could be loaded, the one to use first. Raises BackendError when `path` holds none."""
    return [user_candidate(path)] if path else installed_candidates()

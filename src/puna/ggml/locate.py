"""Where the ggml C library's files are: a folder of the user's own, `ggml-python`, or `libggml-python`."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from puna.errors import BackendError

PREFIX, SUFFIX = {"win32": ("", ".dll"), "darwin": ("lib", ".dylib")}.get(sys.platform, ("lib", ".so"))

# import package, distribution, folders inside the package that may hold the libraries
PACKAGES = (
    ("ggml", "ggml-python", ("lib", "lib64", "bin")),
    ("libggml", "libggml-python", ("lib64", "lib", "bin")),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A folder that holds ggml's shared libraries.

    Attributes:
        origin: `path` (given by the caller or by PUNA_GGML_PATH), or the distribution that installed it.
        folder: absolute path of the folder.
    """

    origin: str
    folder: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The libraries to open, each after those it depends on; the last is ggml itself.

        A build whose backends are loaded at run time has no plain libggml-cpu; its backends are not listed here,
        since ggml itself picks the ones that fit the processor.
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
    """The folder that the user named, or its lib, lib64 or bin. Raises BackendError when none holds ggml."""
    folder = path.expanduser().absolute()
    if not folder.is_dir():
        raise BackendError(
            f"{folder} is not a folder; PUNA_GGML_PATH must name the one that holds {PREFIX}ggml{SUFFIX}"
        )
    for inner in (folder, *(folder / name for name in ("lib", "lib64", "bin"))):
        if holds_ggml(inner):
            return Candidate("path", inner)
    raise BackendError(
        f"{folder} holds no {PREFIX}ggml{SUFFIX}; point PUNA_GGML_PATH at a shared build of ggml"
    )


def installed_candidates() -> list[Candidate]:
    """The installed packages that hold ggml, best first, found without importing them."""
    found = []
    for package, distribution, folders in PACKAGES:
        spec = importlib.util.find_spec(package)
        roots = list(spec.submodule_search_locations or ()) if spec else []
        inner = [Path(root) / folder for root in roots for folder in folders]
        found += [Candidate(distribution, folder) for folder in inner if holds_ggml(folder)][:1]
    return found


def candidates(path: Path | None) -> list[Candidate]:
    """Every ggml that could be loaded, the one to use first. Raises BackendError when `path` holds none."""
    return [user_candidate(path)] if path else installed_candidates()

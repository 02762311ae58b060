"""What Puna calls itself in requests."""

import platform
import sys

from puna import __version__
from puna.options import OLLAMA_VERSION
from puna.registry.registries import Registry

# The Ollama release whose models and registry protocol Puna handles. Ollama's registry answers 412, "requires
# a newer version", to clients that name none, or one older than the model wants.
_OLLAMA_EQUIVALENT = OLLAMA_VERSION

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386"}
_SYSTEMS = {"win32": "windows"}


def user_agent(registry: Registry) -> str:
    """The User-Agent for a registry: Puna's own name, after that of the equal Ollama where the registry asks
    for one (the registries that know Ollama's key)."""
    machine = platform.machine().lower()
    where = f"{_ARCHITECTURES.get(machine, machine)} {_SYSTEMS.get(sys.platform, sys.platform)}"
    if registry.ollama_key:
        return f"ollama/{_OLLAMA_EQUIVALENT} ({where}) puna/{__version__}"
    python = f"Python/{sys.version_info.major}.{sys.version_info.minor}"
    return f"puna/{__version__} ({where}) {python}"

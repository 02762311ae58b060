"""The one parser of model names.

`[scheme://][host/][namespace/]model[:tag]`, read from the right as Ollama's `types/model/name.go` does, and
`pypi://package[:version]`, a model from the Python package index. Every part is checked before a name exists,
so that a `ModelName` may be used as a path inside the store.
"""

import re
from dataclasses import dataclass

from puna.errors import InvalidOption

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
PYPI_HOST = "pypi"
PYPI_SCHEME = "pypi://"

# No part is the name of a Windows device, or ends in a dot, which Windows drops.
_START, _END = r"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z))[A-Za-z0-9_]", r"(?<!\.)"
_PARTS = {
    "host": re.compile(_START + r"[A-Za-z0-9_.:-]{0,349}" + _END, re.ASCII),
    "namespace": re.compile(_START + r"[A-Za-z0-9_-]{0,79}" + _END, re.ASCII),
    "model": re.compile(_START + r"[A-Za-z0-9_.-]{0,79}" + _END, re.ASCII),
    "tag": re.compile(_START + r"[A-Za-z0-9_.-]{0,79}" + _END, re.ASCII),
}
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A complete, valid model name.

    Attributes:
        host: 1-350 characters; `pypi` for a model of the Python package index.
        namespace: 1-80 characters.
        model: 1-80 characters.
        tag: 1-80 characters.

    Raises:
        InvalidOption: a part is empty, too long, or holds a character it may not.
    """

    host: str
    namespace: str
    model: str
    tag: str

    def __post_init__(self) -> None:
        for part, pattern in _PARTS.items():
            text: str = getattr(self, part)
            if not pattern.fullmatch(text):
                raise InvalidOption(f"invalid model name: {text[:100]!r} cannot be a {part}")

    @property
    def is_pypi(self) -> bool:
        """Whether the model comes from the Python package index."""
        return self.host == PYPI_HOST

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Host, namespace, model, tag: the path of the manifest in the store."""
        return self.host, self.namespace, self.model, self.tag

    def __str__(self) -> str:
        """The shortest form that means the same, tag included (left out for a package's latest version)."""
        if self.is_pypi and self.namespace == DEFAULT_NAMESPACE:
            return PYPI_SCHEME + self.model + ("" if self.tag == DEFAULT_TAG else f":{self.tag}")
        shown = f"{self.model}:{self.tag}"
        if (self.host, self.namespace) == (DEFAULT_HOST, DEFAULT_NAMESPACE):
            return shown
        if self.host == DEFAULT_HOST:
            return f"{self.namespace}/{shown}"
        return f"{self.host}/{self.namespace}/{shown}"


def parse_name(text: str) -> ModelName:
    """The name written in `text`, missing parts filled with the defaults.

    Raises:
        InvalidOption: the text is no model name.
    """
    if text[: len(PYPI_SCHEME)].lower() == PYPI_SCHEME:
        return _parse_package(text[len(PYPI_SCHEME) :])
    scheme, separator, rest = text.rpartition("://")
    if separator and scheme.lower() not in ("http", "https"):
        raise InvalidOption(f"invalid model name {text[:100]!r}: unknown scheme {scheme[:20]!r}")
    tag = DEFAULT_TAG
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    head, separator, model = rest.rpartition("/")
    if not separator:
        return ModelName(DEFAULT_HOST, DEFAULT_NAMESPACE, model, tag)
    host, separator, namespace = head.rpartition("/")
    return ModelName(host if separator else DEFAULT_HOST, namespace, model, tag)


def scheme_of(text: str) -> str:
    """The scheme that a name begins with, in lower case; empty when it has none."""
    scheme, separator, _ = text.rpartition("://")
    return scheme.lower() if separator else ""


def _parse_package(text: str) -> ModelName:
    package, separator, version = text.partition(":")
    if not _PACKAGE.fullmatch(package):
        raise InvalidOption(f"invalid package name {package[:100]!r} after {PYPI_SCHEME}")
    return ModelName(
        PYPI_HOST, DEFAULT_NAMESPACE, normalize_package(package), version if separator else DEFAULT_TAG
    )


def normalize_package(package: str) -> str:
    """The package's name as PEP 503 compares names: lower case, runs of `-_.` as one `-`."""
    return re.sub(r"[-_.]+", "-", package).lower()

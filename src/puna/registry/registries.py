"""The registries a user has: what may be done with each.

What the configuration file says of a host in its table `[registries."host"]`, over what is known of the
public registries. A host that comes from a model's name alone gets no leave at all: https, public addresses,
the system's certificates, and no one else may ask for its credentials.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from puna.errors import AddressRefused, InvalidOption
from puna.registry.urls import Origin, parse_authority, parse_url
from puna.settings import Configuration

# Where the registry of a name answers, if not at its name.
_ANSWERING_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
# Who else issues the tokens of the public registries.
_KNOWN_REALMS = {
    "docker.io": ("https://auth.docker.io",),
    "index.docker.io": ("https://auth.docker.io",),
    "registry-1.docker.io": ("https://auth.docker.io",),
    "hf.co": ("https://huggingface.co",),
    "huggingface.co": ("https://hf.co",),
}
_OLLAMA_KEY_HOSTS = {"registry.ollama.ai", "ollama.com", "hf.co", "huggingface.co"}


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry and what the user allows it.

    Attributes:
        host: `host` or `host:port` in lower case, as model names write it.
        origin: where it answers.
        mirrors: asked first, in order, when a model is pulled.
        private: it may be at a private or loopback address.
        ca: a file of certificates to trust besides the system's.
        realms: the other origins that may ask for its credentials.
        ollama_key: its token requests are signed with the user's Ollama key.
    """

    host: str
    origin: Origin
    mirrors: tuple[Origin, ...] = ()
    private: bool = False
    ca: Path | None = None
    realms: tuple[Origin, ...] = ()
    ollama_key: bool = False

    @property
    def plain_http(self) -> bool:
        """Whether it is spoken to without encryption."""
        return self.origin.scheme == "http"

    def may_be_private(self, host: str) -> bool:
        """Whether `host` may be at a private address: the registry's own, and those of its realms."""
        return self.private and host in {self.origin.host, *(realm.host for realm in self.realms)}

    def check_encryption(self, origin: Origin) -> None:
        """Check that `origin` may be spoken to as its scheme says.

        Raises:
            AddressRefused: it is plain http, unless the registry is, and it is the registry's own host or a
                realm that the user has listed so.
        """
        allowed = self.plain_http and (origin.host == self.origin.host or origin in self.realms)
        if origin.scheme == "http" and not allowed:
            raise AddressRefused(f"insecure protocol http: {origin.authority} is spoken to by https only")


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    """One table of the configuration file."""

    mirrors: list[str] = []
    plain_http: bool = False
    private: bool = False
    ca: str | None = None
    realms: list[str] = []
    ollama_key: bool | None = None


def read_registries(configuration: Configuration) -> dict[str, Registry]:
    """The registries that the configuration has tables for, by host.

    Raises:
        InvalidOption: a table is not as it should be; names file, table and key.
    """
    tables = configuration.tables.get("registries", {})
    if not isinstance(tables, dict):
        raise InvalidOption(f'{configuration.path}: registries must be tables, [registries."host"]')
    found = {}
    for host, table in tables.items():
        try:
            registry = _configured(host.lower(), table, configuration.path)
        except (AddressRefused, InvalidOption, msgspec.ValidationError) as error:
            name = f'[registries."{host[:100]}"]'
            raise InvalidOption(f"{configuration.path}: {name}: {error}") from error
        found[registry.host] = registry
    return found


def registry_for(host: str, configured: Mapping[str, Registry], *, insecure: bool = False) -> Registry:
    """The registry at the host of a model's name.

    Args:
        host: `host` or `host:port`.
        configured: what `read_registries` gave.
        insecure: the user allows plain http and private addresses for this host, this once.

    Raises:
        AddressRefused: no registry can have such a host.
    """
    host = host.lower()
    registry = configured.get(host) or _built(host, _Table())
    if not insecure:
        return registry
    origin = _origin("http", host)
    return replace(registry, origin=origin, private=True)


def mirrors_of(registry: Registry, configured: Mapping[str, Registry]) -> list[Registry]:
    """The registry's mirrors, each as a registry of its own.

    A mirror follows its own table if it has one. It may be at a private address in any case, for the user
    has named it.
    """
    found = []
    for origin in registry.mirrors:
        own = configured.get(origin.authority) or _built(origin.authority, _Table())
        found.append(replace(own, origin=origin, private=True, mirrors=()))
    return found


def _configured(host: str, table: Any, path: Path) -> Registry:
    values = msgspec.convert(table, _Table)
    if values.ca is not None:
        # A path in the file is meant from the file's folder.
        values.ca = str(path.parent / os.path.expanduser(values.ca))
    return _built(host, values)


def _built(host: str, table: _Table) -> Registry:
    origin = _origin("http" if table.plain_http else "https", host)
    realms = tuple(_listed("realms", url) for url in (*table.realms, *_KNOWN_REALMS.get(host, ())))
    if not table.plain_http and any(realm.scheme == "http" for realm in realms):
        raise InvalidOption("realms must be https addresses, unless plain_http is true")
    return Registry(
        host=host,
        origin=origin,
        mirrors=tuple(_listed("mirrors", url) for url in table.mirrors),
        private=table.private,
        ca=Path(table.ca) if table.ca is not None else None,
        realms=realms,
        ollama_key=host in _OLLAMA_KEY_HOSTS if table.ollama_key is None else table.ollama_key,
    )


def _origin(scheme: str, host: str) -> Origin:
    return parse_authority(scheme, _ANSWERING_HOSTS.get(host, host))


def _listed(key: str, url: str) -> Origin:
    address = parse_url(url)
    if address.target != "/":
        raise InvalidOption(f"{key}: {url[:100]!r} must end after the host")
    return address.origin

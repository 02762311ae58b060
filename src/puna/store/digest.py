"""The one validator of content digests (the `sha256:<hex>` of the OCI image specification)."""

import re
from dataclasses import dataclass

from puna.errors import StoreError

_PATTERN = re.compile(r"sha256[:-]([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Digest:
    """A SHA-256 content digest. Make one with `Digest.parse`, or from a hash's own hexdigest.

    Attributes:
        hex: 64 lower-case hexadecimal digits.
    """

    hex: str

    def __post_init__(self) -> None:
        if not _PATTERN.fullmatch(f"sha256:{self.hex}"):
            raise StoreError(f"invalid digest {self.hex[:100]!r}: want 64 lower-case hexadecimal digits")

    @classmethod
    def parse(cls, text: str) -> "Digest":
        """The digest written as `sha256:<hex>` (manifests) or `sha256-<hex>` (file names).

        Raises:
            StoreError: anything else, be it one character too many.
        """
        return cls(hex_of(text))

    @property
    def short(self) -> str:
        """The first twelve digits, as shown to people."""
        return self.hex[:12]

    @property
    def file_name(self) -> str:
        """The blob's name on disk."""
        return f"sha256-{self.hex}"

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


def hex_of(text: str) -> str:
    """The digits of a digest written as `sha256:<hex>` or `sha256-<hex>`. Raises: StoreError."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise StoreError(f"invalid digest {text[:100]!r}: want sha256: and 64 lower-case hexadecimal digits")
    return match[1]

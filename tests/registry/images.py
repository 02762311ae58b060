"""Models as registries hold them: a manifest and its blobs."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest's bytes, and the blobs it names by their digests."""

    manifest: bytes
    blobs: dict[str, bytes]

    @property
    def document(self) -> Any:
        """The manifest, decoded: a copy that may be changed."""
        return json.loads(self.manifest)


def digest_of(content: bytes) -> str:
    """`sha256:<hex>` of the content."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def image(*layers: bytes | tuple[str, bytes], config: bytes = b'{"model_format":"gguf"}') -> Image:
    """An image of these layers: model files, or pairs of the media type's last word and the content.

    The manifest is laid out as no program of ours would, so that a copy of it must be one of its bytes.
    """
    named = [layer if isinstance(layer, tuple) else ("model", layer) for layer in layers]
    blobs = {digest_of(content): content for content in (config, *(content for _, content in named))}
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, config),
        "layers": [descriptor(LAYER_TYPE + kind, content) for kind, content in named],
    }
    return Image(json.dumps(document, indent=3).encode(), blobs)


def descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    """How a manifest names a blob."""
    return {"digest": digest_of(content), "mediaType": media_type, "size": len(content)}

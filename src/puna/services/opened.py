"""Models at hand without their weights: what prompts are made and answers are read with."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from puna.gguf import GGUFFile
from puna.gguf.keys import Pooling
from puna.scheduler.state import ModelSource
from puna.services.conversation import Chat, facts_of
from puna.services.limits import Limits
from puna.services.projectors import Projector, projector_of
from puna.store.library import Library
from puna.store.manifests import MODEL_LAYER, Manifest, StoredManifest, model_digest
from puna.store.model import Model, stored_model
from puna.store.name import ModelName
from puna.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from puna.tokenizer import Tokenizer

# Of one token: its bytes several times over, as Python and the tokenizer's library keep them.
_TOKEN_BYTES = 768


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model of the store, ready for everything but computing.

    Attributes:
        source: what a runner loads.
        digest: the model's, 64 hexadecimal digits.
        tokenizer: may be used by several threads at once.
        chat: its conversations; how many tokens of context they have is known once it is loaded.
        trained_ctx: tokens of context that it was made for; 0 where its file does not say.
        ranks: it says how well a text fits a query.
        projector: its image encoder, where that is a file of its own.
        adapters: the files of its adapters.
    """

    source: ModelSource
    digest: str
    model: Model
    tokenizer: "Tokenizer"
    chat: Chat
    trained_ctx: int
    ranks: bool
    projector: Projector | None = None
    adapters: tuple[Path, ...] = ()

    @property
    def size(self) -> int:
        """Roughly the bytes that it takes."""
        return self.tokenizer.vocab_size * _TOKEN_BYTES

    def called(self, asked: str, name: ModelName) -> "OpenedModel":
        """The same by another of its names, as the caller wrote it and as the store spells it."""
        model = replace(self.model, name=name)
        source = replace(self.source, name=str(name))
        return replace(
            self, source=source, model=model, chat=replace(self.chat, facts=facts_of(asked, model))
        )


def open_model(library: Library, stored: StoredManifest, tokenizer: "Tokenizer | None" = None) -> OpenedModel:
    """Read everything of a model but its weights. A vocabulary of 262,144 tokens takes a second.

    Args:
        tokenizer: that of the same GGUF file, if it is at hand.

    Raises:
        StoreError, UnsupportedModel: as `stored_model` and `Model.weights`.
        GGUFError, ModelError, TemplateError: the file is no model, or one of an unknown kind.
    """
    model = stored_model(library, stored)
    path = model.weights(library.blobs)
    with GGUFFile.open(path) as file:
        metadata = file.metadata
        tokenizer = tokenizer or load_tokenizer(metadata)
        projector = projector_of(model, metadata)
        facts = facts_of(str(model.name), model)
        chat = Chat.of(metadata, tokenizer, 0, facts, projector=projector.metadata if projector else None)
        return OpenedModel(
            source=ModelSource(weights_digest(model.manifest), path, str(model.name)),
            digest=model.digest,
            model=model,
            tokenizer=tokenizer,
            chat=chat,
            trained_ctx=metadata.uint("context_length", 0),
            ranks=metadata.uint("pooling_type", Pooling.NONE) == Pooling.RANK,
            projector=projector,
            adapters=model.adapter_files(library.blobs),
        )


def weights_digest(manifest: Manifest) -> str:
    """The digest of a model's GGUF file; empty if it has none."""
    layer = manifest.first(MODEL_LAYER)
    return layer.digest if layer else ""


class OpenedModels:
    """The models that were opened last. Who asks for one that is being opened waits with the others."""

    def __init__(self, library: Library, limits: Limits) -> None:
        self._library = library
        self._limits = limits
        self._opened: OrderedDict[str, OpenedModel] = OrderedDict()
        self._opening: dict[str, asyncio.Task[OpenedModel]] = {}

    def __contains__(self, stored: StoredManifest) -> bool:
        return model_digest(stored.content) in self._opened

    async def get(self, stored: StoredManifest) -> OpenedModel:
        """The model of a manifest. Raises: as `open_model`."""
        digest = model_digest(stored.content)
        if found := self._opened.get(digest):
            self._opened.move_to_end(digest)
            return found
        if digest not in self._opening:
            task = asyncio.create_task(self._open(digest, stored))
            self._opening[digest] = task
            task.add_done_callback(lambda done: self._forget(digest, done))
        # It is opened even if whoever asked first no longer waits.
        return await asyncio.shield(self._opening[digest])

    async def close(self) -> None:
        """Wait for what is being opened, and forget everything."""
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        self._opened.clear()

    def _forget(self, digest: str, done: "asyncio.Task[OpenedModel]") -> None:
        del self._opening[digest]
        if not done.cancelled():
            # Nobody may be left to see it.
            done.exception()

    async def _open(self, digest: str, stored: StoredManifest) -> OpenedModel:
        opened = await asyncio.to_thread(open_model, self._library, stored, self._tokenizer_of(stored))
        self._opened[digest] = opened
        while len(self._opened) > 1 and self._is_too_much():
            self._opened.popitem(last=False)
        return opened

    def _tokenizer_of(self, stored: StoredManifest) -> "Tokenizer | None":
        """The tokenizer of another model with the same file."""
        digest = weights_digest(stored.manifest())
        same = (one.tokenizer for one in self._opened.values() if digest and one.source.digest == digest)
        return next(same, None)

    def _is_too_much(self) -> bool:
        size = sum(one.size for one in self._opened.values())
        return len(self._opened) > self._limits.opened or size > self._limits.opened_bytes

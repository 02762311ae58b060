"""Messages and pictures as callers write them: read as a server would that had been sent them."""

from collections.abc import Sequence

import msgspec

from puna import gojson
from puna.chat.conversation import Message
from puna.client.arguments import GivenAdapter, GivenMessage, Image
from puna.client.calls import adapter_documents, encoded_image, message_document
from puna.errors import InvalidOption
from puna.services.adapters import NamedAdapter
from puna.services.messages import MessageBody, message_of, pictures


def read_message(message: GivenMessage) -> Message:
    """The message. Raises: InvalidOption: a field is missing or of the wrong type, or a picture is none."""
    try:
        document = msgspec.to_builtins(message_document(message))
        body = gojson.convert(document, MessageBody)
    except (TypeError, msgspec.ValidationError) as error:
        raise InvalidOption(f"invalid message: {str(error).replace('`', '')[:200]}") from error
    if not body.role:
        raise InvalidOption("a message has no role")
    return message_of(body)


def read_adapters(adapters: Sequence[GivenAdapter]) -> list[NamedAdapter]:
    """The adapters. Raises: InvalidOption: a field is of the wrong type."""
    try:
        return gojson.convert(adapter_documents(adapters), list[NamedAdapter])
    except (TypeError, msgspec.ValidationError) as error:
        raise InvalidOption(f"invalid adapters: {str(error).replace('`', '')[:200]}") from error


def read_pictures(images: Sequence[Image]) -> tuple[bytes, ...]:
    """The content of the pictures' files. Raises: InvalidOption: one is none."""
    return pictures([encoded_image(image) for image in images])

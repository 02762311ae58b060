"""Pictures in requests: data URIs (RFC 2397) only. Nothing is fetched for a client."""

import base64
import binascii
import re

from puna.server.errors import Refused

_DATA = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp|gif))?;base64,", re.ASCII | re.IGNORECASE)


def picture(url: object, param: str) -> bytes:
    """The content of the image file in a data URI. Raises: Refused, 400."""
    if not isinstance(url, str):
        raise Refused(400, "invalid image input: a data URI is wanted", param=param)
    begin = _DATA.match(url)
    if begin is None:
        raise Refused(
            400,
            "image URLs are not fetched: send the image itself as data:image/png;base64,…",
            param=param,
        )
    try:
        content = base64.b64decode(url[begin.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, "invalid image input: it is not base64", param=param) from error
    if not content:
        raise Refused(400, "invalid image input: it is empty", param=param)
    return content

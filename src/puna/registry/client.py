"""The registry protocol: manifests and blobs of one repository, over HTTP.

Source: the OCI distribution specification 1.1, and what Ollama's registry does otherwise. Every answer is
checked here: status, length and range; what goes beyond that is not looked at.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from puna.errors import FetchError, ModelNotFound, Unauthorized
from puna.registry.auth import Authorizer
from puna.registry.credentials import Credentials
from puna.registry.http import HttpClient, Response, Upload
from puna.registry.network import Network
from puna.registry.patience import Busy, Patience, StatusError
from puna.registry.redirects import next_hop
from puna.registry.registries import Registry
from puna.registry.spans import Span
from puna.store.digest import Digest
from puna.store.manifests import MANIFEST_LIMIT, MANIFEST_TYPE
from puna.store.name import ModelName

_OCI_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_REDIRECTS = {301, 302, 303, 307, 308}
_LATER = {429, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,6}", re.ASCII)
_MOST_WAIT = 60.0


class RangeIgnored(FetchError):
    """The registry sends the whole blob when it is asked for a part."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks.

    Attributes:
        find_credentials: gives the user's credentials for a host, None when there are none.
        key_folder: where the user's Ollama key is, or will be made when a registry wants one.
    """

    find_credentials: Callable[[str], Credentials | None]
    key_folder: Path


class Repository:
    """The blobs and manifests of one model name's repository in one registry. Several threads may use it."""

    def __init__(
        self, network: Network, registry: Registry, name: ModelName, identity: Identity, patience: Patience
    ) -> None:
        self.registry = registry
        self.path = f"{name.namespace}/{name.model}"
        self._tag = name.tag
        self._network = network
        self._identity = identity
        self._patience = patience
        self._connect()

    def abort(self) -> None:
        """End every request that is under way now, from any thread; they raise Interrupted."""
        ended = self._http
        self._connect()
        ended.close()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._http.close()

    def manifest(self) -> bytes:
        """The manifest under the name's tag, as the registry sends it.

        Raises:
            ModelNotFound: there is none.
            FetchError: it cannot be had.
        """
        headers = {"Accept": f"{MANIFEST_TYPE}, {_OCI_MANIFEST_TYPE}"}

        def ask() -> bytes:
            with self.send("GET", self.url("manifests", self._tag), headers=headers) as response:
                return response.read(MANIFEST_LIMIT)

        return self._patience.insist(ask, contact=True)

    def put_manifest(self, content: bytes, media_type: str) -> None:
        """Make the name's tag mean a manifest whose blobs are all there. Raises: FetchError."""
        headers = {"Content-Type": media_type or MANIFEST_TYPE}
        url = self.url("manifests", self._tag)
        self._patience.insist(lambda: self.send("PUT", url, headers=headers, body=content, push=True)).close()

    def has_blob(self, digest: Digest) -> bool:
        """Whether the repository has the blob. Raises: FetchError."""
        url = self.url("blobs", str(digest))
        try:
            self._patience.insist(lambda: self.send("HEAD", url, push=True), contact=True).close()
        except ModelNotFound:
            return False
        return True

    def blob(self, digest: Digest, span: Span, size: int) -> Response:
        """The bytes `span` of a blob of `size` bytes, to be read by the caller.

        Raises:
            RangeIgnored: a part was asked for and the whole is sent.
            FetchError: it cannot be had, or the blob has another size.
        """
        whole = span == Span(0, size)
        headers = {} if whole else {"Range": f"bytes={span.start}-{span.end - 1}"}
        try:
            response = self.send("GET", self.url("blobs", str(digest)), headers=headers)
        except ModelNotFound as error:
            message = f"{self.registry.host} lacks the blob {digest} that the model needs"
            raise StatusError(message, HTTPStatus.NOT_FOUND) from error
        try:
            self._check_span(response, span, size, whole=whole)
        except FetchError:
            response.abort()
            response.close()
            raise
        return response

    def _check_span(self, response: Response, span: Span, size: int, *, whole: bool) -> None:
        host = self.registry.host
        if response.status == HTTPStatus.OK:
            if response.length not in (None, size):
                raise FetchError(f"{host} has a blob of {response.length} bytes instead of {size}")
            if not whole:
                raise RangeIgnored(f"{host} sends whole blobs only")
            return
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status != HTTPStatus.PARTIAL_CONTENT or match is None:
            raise FetchError(f"{host} answers with status {response.status} and no range")
        if (int(match[1]), int(match[2]) + 1) != (span.start, span.end) or match[3] not in ("*", str(size)):
            raise FetchError(f"{host} sends another range than bytes {span.start} to {span.end} of {size}")
        if response.length not in (None, span.size):
            raise FetchError(f"{host} sends {response.length} bytes for a range of {span.size}")

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Upload | None = None,
        push: bool = False,
    ) -> Response:
        """Send one request and follow redirects, if it only asks; the answer, a success or a redirect.

        The user's authorization goes to the registry's own origin only.

        Args:
            body: an upload is sent again from where its source stood.
            push: whether the request needs leave to write.

        Raises:
            ModelNotFound: status 404.
            Unauthorized: the registry wants other credentials than there are.
            Busy: the registry asks to come back later.
            FetchError: any other failure.
        """
        scope = f"repository:{self.path}:{'pull,push' if push else 'pull'}"
        hops = 0
        while True:
            response = self._authorizer.send(
                method,
                url,
                scope=scope,
                headers=headers,
                body=body,
                deadline=self._patience.deadline,
                idle_timeout=self._patience.idle,
            )
            if response.status in _REDIRECTS and method in ("GET", "HEAD"):
                response.close()
                url = next_hop(url, response.headers.get("Location"), self.registry, hops).url
                hops += 1
                continue
            if response.status >= HTTPStatus.BAD_REQUEST:
                response.close()
                raise self._failure(response)
            return response

    def _connect(self) -> None:
        identity = self._identity
        self._http = HttpClient(self._network)
        self._authorizer = Authorizer(
            self._http,
            self.registry,
            identity.find_credentials,
            identity.key_folder,
            deadline=self._patience.deadline,
        )

    def url(self, kind: str, reference: str) -> str:
        """The address of a manifest, a blob, or the blobs' uploads."""
        return f"{self.registry.origin}/v2/{self.path}/{kind}/{reference}"

    def _failure(self, response: Response) -> FetchError:
        host, status = self.registry.host, response.status
        if status == HTTPStatus.NOT_FOUND:
            return ModelNotFound("file does not exist")
        if status == HTTPStatus.UNAUTHORIZED:
            return Unauthorized(f"unauthorized: access denied by {host}; `puna login {host}` may help")
        if status == HTTPStatus.PRECONDITION_FAILED:
            return StatusError(f"412: {host} says that this model needs a newer version", status)
        text = f"{host} answers with status {status}{_phrase(status)}"
        return Busy(text, status, _retry_after(response)) if status in _LATER else StatusError(text, status)


def _phrase(status: int) -> str:
    try:
        return f", {HTTPStatus(status).phrase.lower()}"
    except ValueError:
        return ""


def _retry_after(response: Response) -> float | None:
    """The header's seconds (RFC 9110, 10.2.3), within reason."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), _MOST_WAIT) if _SECONDS.fullmatch(text) else None

"""A connection that cannot hang: every read and write on it ends by a deadline, or at once by `abort`."""

import io
import socket
import time
from typing import TYPE_CHECKING

from puna.errors import FetchError, Interrupted

if TYPE_CHECKING:
    import ssl

    from _typeshed import WriteableBuffer

_SEND_SIZE = 64 << 10
_BUFFER = 32 << 10


class Stalled(FetchError):
    """The other side has sent, or taken, nothing for as long as one may wait."""


class ConnectionLost(FetchError):
    """The other side has closed the connection, or the network has."""


class Untrusted(FetchError):
    """The other side's certificate is not trusted."""


class Wire:
    """A connected socket with limits.

    Attributes:
        peer: the host, for messages.
        deadline: when waiting ends whatever comes, as `time.monotonic` counts; None for never.
        idle: seconds to wait for the next byte.
        allowance: bytes that may still be read; what reads raises it first.
    """

    def __init__(self, connection: socket.socket, peer: str) -> None:
        self.peer = peer
        self.deadline: float | None = None
        self.idle = 30.0
        self.allowance = 0
        self._socket = connection
        # A second handle on the connection: it works whatever TLS makes of the first, from any thread.
        self._handle = connection.dup()
        self._aborted = False

    def start_tls(self, context: "ssl.SSLContext", host: str) -> None:
        """Encrypt from here on, with the certificate checked against `host`. Raises: FetchError."""
        import ssl

        self._socket.settimeout(self._seconds())
        try:
            self._socket = context.wrap_socket(self._socket, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise Untrusted(
                f"the certificate of {self.peer} is not trusted: {error.verify_message}; if an authority of"
                " your own has signed it, name its file as ca for this registry in the configuration"
            ) from error
        except ssl.SSLError as error:
            raise self._failure(error, f"{self.peer} does not speak TLS as it should") from error
        except OSError as error:
            raise self._failure(error) from error
        if self._aborted:
            raise _stopped()

    def sendall(self, data: bytes | memoryview) -> None:
        """Write all of `data`. Raises: Stalled, ConnectionLost, FetchError, Interrupted."""
        view = memoryview(data)
        for start in range(0, len(view), _SEND_SIZE):
            self._socket.settimeout(self._seconds())
            try:
                self._socket.sendall(view[start : start + _SEND_SIZE])
            except OSError as error:
                raise self._failure(error) from error

    def recv_into(self, buffer: memoryview) -> int:
        """Read what has come, at least a byte; 0 at the end. Raises: as `sendall`."""
        room = min(len(buffer), self.allowance)
        if room == 0 < len(buffer):
            raise FetchError(f"{self.peer} sends more around its content than makes sense")
        self._socket.settimeout(self._seconds())
        try:
            count = self._socket.recv_into(buffer[:room])
        except OSError as error:
            raise self._failure(error) from error
        if self._aborted:
            raise _stopped()
        self.allowance -= count
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        """A buffered reader, as `http.client` asks a socket for; closing it leaves the connection open."""
        return io.BufferedReader(_Reading(self), _BUFFER)

    def is_idle(self) -> bool:
        """Whether the connection is open and nothing has come in: fit for another request."""
        try:
            self._handle.settimeout(0)
            self._handle.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def abort(self) -> None:
        """End the connection now; whoever waits on it in another thread gets Interrupted."""
        self._aborted = True
        self._shut()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
        self._handle.close()

    def _shut(self) -> None:
        try:
            self._handle.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended by itself
            return

    def _seconds(self) -> float:
        if self._aborted:
            raise _stopped()
        if self.deadline is None:
            return self.idle
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise self._late()
        return min(self.idle, remaining)

    def _failure(self, error: OSError, what: str = "") -> FetchError | Interrupted:
        if self._aborted:
            return _stopped()
        if isinstance(error, TimeoutError):
            late = self.deadline is not None and time.monotonic() >= self.deadline
            return (
                self._late()
                if late
                else Stalled(f"{self.peer} has stalled: nothing came for {self.idle:g} s")
            )
        return ConnectionLost(f"{what or f'the connection to {self.peer} broke'}: {error.strerror or error}")

    def _late(self) -> Stalled:
        return Stalled(f"{self.peer} did not answer in time")


class _Reading(io.RawIOBase):
    """The reading side of a wire as a raw file."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        return self._wire.recv_into(memoryview(buffer))


def _stopped() -> Interrupted:
    return Interrupted("the transfer was stopped")

"""A network that ends on this machine: names, addresses, certificates and servers made by the test.

Every address is connected to a server of the test, or to a canary that nothing should ever reach; what was
asked for is recorded. So no packet leaves, even when the code under test is wrong.
"""

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from puna.registry.network import Network

PUBLIC = "93.184.215.14"


@dataclass
class Loopback:
    """The resolver and the connector of a `Network`.

    Attributes:
        names: addresses by host; a list of lists gives one answer after the other, the last for ever.
        servers: real loopback ports by address and port asked for.
        resolved: hosts asked for.
        connected: addresses and ports asked for.
    """

    canary: "RawServer"
    names: dict[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    servers: dict[tuple[str, int], int] = field(default_factory=dict)
    resolved: list[str] = field(default_factory=list)
    connected: list[tuple[str, int]] = field(default_factory=list)

    def add(self, host: str, server: "Server | RawServer", port: int = 443, address: str = PUBLIC) -> None:
        """Let `host`:`port` be `server`, at the address `address`."""
        self.names[host] = [[address]]
        self.servers[address, port] = server.port

    def network(self) -> Network:
        return Network(self._resolve, self._connect)

    def _resolve(self, host: str, port: int) -> Sequence[str]:
        self.resolved.append(host)
        answers = self.names.get(host)
        if answers is None:
            raise socket.gaierror("no such name")
        return answers[min(self.resolved.count(host), len(answers)) - 1]

    def _connect(self, address: str, port: int, timeout: float) -> socket.socket:
        self.connected.append((address, port))
        real = self.servers.get((address, port), self.canary.port)
        return socket.create_connection(("127.0.0.1", real), timeout)


class RawServer:
    """Accepts connections and gives each to a function, in a thread of its own.

    Attributes:
        port: on 127.0.0.1.
        connections: how many came.
    """

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            self._serve(connection)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


@dataclass(frozen=True)
class Request:
    """What a server got."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    peer: int


@dataclass(frozen=True)
class Reply:
    """What a server answers; Content-Length is added unless the headers have one or say `chunked`."""

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


class Server:
    """An HTTP/1.1 server that answers as a function says.

    Attributes:
        port: on 127.0.0.1.
        requests: what came, in order.
        server_names: what TLS clients asked for by SNI.
    """

    def __init__(self, answer: Callable[[Request], Reply], context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.server_names: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle(self) -> None:
                with suppress(OSError):
                    if context is not None:
                        self.request.do_handshake()
                    super().handle()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, body, self.client_address[1])
                outer.requests.append(request)
                reply = answer(request)
                self.send_response(reply.status)
                names = {name.lower() for name, _ in reply.headers}
                for name, value in reply.headers:
                    self.send_header(name, value)
                if not {"content-length", "transfer-encoding"} & names:
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        if context is not None:
            # A new context for each server, so that the names asked for are its own.
            context.sni_callback = lambda _socket, name, _context: self.server_names.append(name)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class Authority:
    """A certificate authority.

    Attributes:
        file: its own certificate, for clients.
    """

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._certificate(self._name, self._key, [], authority=True)
        self.file = folder / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, *names: str) -> ssl.SSLContext:
        """What a server with a certificate for these host names and addresses uses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._certificate(subject, key, names)
        file = self._folder / f"{names[0].replace(':', '_')}.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: Sequence[str],
        *,
        authority: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_name(n) for n in names]), False)
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


@contextmanager
def canary_network() -> Iterator[Loopback]:
    """A `Loopback` without any server but the canary, which must have seen nobody when the test is over."""
    canary = RawServer(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nTOP-SECRET"))
    loopback = Loopback(canary)
    try:
        yield loopback
    finally:
        canary.close()
    assert canary.connections == 0, loopback.connected

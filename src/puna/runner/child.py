"""A child process with a socket to it: started, spoken to, and ended so that nothing of it is left."""

import asyncio
import logging
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import msgspec

from puna import settings
from puna.errors import PunaError, RunnerDied
from puna.runner.protocol import Frames, FromRunner, ToRunner, encode, from_runner

logger = logging.getLogger("puna.runner")

OUTPUT_KEPT = 64 << 10
"""How many bytes of what a child writes are kept, the latest."""

_LINE_LOGGED = 500
# A child that closed its socket is about to end; if it does not within this many seconds, it is made to.
_LINGER = 1.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended.

    Attributes:
        status: its exit status; below 0 the signal that ended it, negated.
        output: the last of what it wrote.
        fault: why it was ended from this side, if it was for a fault of its own.
    """

    status: int
    output: bytes
    fault: str = ""


class Child:
    """A process that speaks the runner's protocol.

    It has no thread and no watcher here: that its socket closes tells that it ends, whatever ends it, and
    then it is reaped. It gets nothing of the environment but `settings.runner_environment`, no file but the
    socket, and a session of its own, so that signals from a terminal go to the server alone.

    Attributes:
        ended: done when the process is gone and everything it said was handed on.
        heard: when it last said something, in the loop's time.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", received: Callable[[FromRunner], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._received = received
        self._socket: asyncio.Transport | None = None
        self._output: asyncio.ReadTransport | None = None
        self._written = _Output(process.pid, self._finish)
        self._fault = ""
        self.ended: asyncio.Future[Ending] = self._loop.create_future()
        self.heard = self._loop.time()

    @classmethod
    async def spawn(
        cls, command: Callable[[int], Sequence[str]], received: Callable[[FromRunner], None]
    ) -> Self:
        """Starts a process.

        Args:
            command: gives the command line for the descriptor of the child's end of the socket.
            received: called with each message of the child.

        Raises:
            RunnerDied: the system starts no process.
        """
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    process = _start(command(theirs.fileno()), theirs.fileno())
                except OSError:
                    ours.close()
                    raise
            child = cls(process, received)
            await child._connect(ours)
        except OSError as error:
            raise RunnerDied(f"no model runner can be started: {error.strerror or error}") from error
        return child

    async def _connect(self, ours: socket.socket) -> None:
        try:
            link = _Link(self)
            self._socket, _ = await self._loop.create_unix_connection(lambda: link, sock=ours)
            self._output, _ = await self._loop.connect_read_pipe(lambda: self._written, self._process.stdout)
        except BaseException:
            self.kill()
            if self._socket is None:
                ours.close()
                self.connection_lost()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToRunner) -> None:
        """Says something; what is said to one that has ended is lost."""
        if self._socket is not None and not self._socket.is_closing():
            self._socket.write(encode(message))

    def terminate(self) -> None:
        """Asks the process to end, by SIGTERM."""
        self._process.terminate()

    def kill(self, fault: str = "") -> None:
        """Ends the process at once; `fault` says why, if it is to blame."""
        self._fault = self._fault or fault
        self._process.kill()

    def data_received(self, bodies: list[bytes]) -> None:
        """Hands on messages."""
        self.heard = self._loop.time()
        for body in bodies:
            self._received(from_runner.decode(body))

    def connection_lost(self) -> None:
        """Begins to reap: its socket is closed."""
        self._loop.call_later(_LINGER, self.kill)
        self._reap(0.001)

    def _reap(self, pause: float) -> None:
        if self._process.poll() is None:
            self._loop.call_later(pause, self._reap, min(2 * pause, 0.05))
        elif self._output is None or self._written.closed:
            self._finish()
        else:
            # Only a process that the child left behind could hold the other end.
            self._loop.call_later(_LINGER, self._output.close)

    def _finish(self) -> None:
        status = self._process.returncode
        if status is not None and not self.ended.done():
            if self._process.stdout is not None:
                self._process.stdout.close()
            self.ended.set_result(Ending(status, bytes(self._written.kept), self._fault))


def _start(command: Sequence[str], socket: int) -> "subprocess.Popen[bytes]":
    # Before Python 3.11.4, what `DEVNULL` opens stays open where no pipe can be made after it.
    with open(os.devnull, "rb") as nothing:
        return subprocess.Popen(
            command,
            stdin=nothing,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=settings.runner_environment(),
            pass_fds=(socket,),
            start_new_session=True,
        )


class _Link(asyncio.Protocol):
    """The socket to a child."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._frames = Frames()

    def data_received(self, data: bytes) -> None:
        try:
            self._child.data_received(self._frames.feed(data))
        except (PunaError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._child.kill(f"it said what cannot be understood: {str(error)[:100]}")

    def connection_lost(self, error: Exception | None) -> None:
        self._child.connection_lost()


class _Output(asyncio.Protocol):
    """What a child writes to its standard output and error: the end is kept, the lines are logged."""

    def __init__(self, pid: int, finished: Callable[[], None]) -> None:
        self._pid = pid
        self._finished = finished
        self._line = b""
        self.kept = bytearray()
        self.closed = False

    def data_received(self, data: bytes) -> None:
        self.kept += data
        del self.kept[:-OUTPUT_KEPT]
        if logger.isEnabledFor(logging.DEBUG):
            *lines, rest = (self._line + data).split(b"\n")
            self._line = rest[:_LINE_LOGGED]
            for line in lines:
                self._log(line)

    def connection_lost(self, error: Exception | None) -> None:
        if self._line:
            self._log(self._line)
        self.closed = True
        self._finished()

    def _log(self, line: bytes) -> None:
        text = line[:_LINE_LOGGED].decode("utf-8", "replace")
        shown = "".join(
            character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
        )
        logger.debug("runner %d: %s", self._pid, shown)

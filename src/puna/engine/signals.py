"""Ctrl-C during a computation: the C library is told at once, not when it comes back to Python."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from puna.ml import Backend


@contextmanager
def interrupted_by_signals(backend: Backend) -> Iterator[None]:
    """While inside, a signal with a handler also interrupts what `backend` computes.

    Python runs handlers only between its own instructions, so that a Ctrl-C would wait for the end of a
    computation. The wake-up descriptor, though, is written to the moment the signal arrives; a thread that
    waits for it interrupts the backend. Only the main thread gets signals: in others nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    previous = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(receiving, backend), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        sending.close()
        watcher.join()
        receiving.close()
        backend.resume()


def _watch(receiving: socket.socket, backend: Backend) -> None:
    while receiving.recv(64):
        backend.interrupt()

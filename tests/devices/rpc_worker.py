"""An RPC server with one CPU device and little memory, on a loopback port: rpc_worker.py PORT BYTES."""

import ctypes
import resource
import sys
from pathlib import Path

import puna.ggml
from puna.ml.backends.ggml.devices import processor


def main() -> None:
    port, memory = int(sys.argv[1]), int(sys.argv[2])
    library = puna.ggml.load()
    devices = (ctypes.c_void_p * 1)(processor(library).handle)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + memory, used + memory))
    endpoint = f"127.0.0.1:{port}".encode()
    library.ggml_backend_rpc_start_server(endpoint, None, 1, 1, ctypes.addressof(devices))


if __name__ == "__main__":
    main()

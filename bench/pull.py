"""How fast a model is pulled, beside `curl` piped into `sha256sum`; both from one registry on this machine.

    python bench/pull.py [--size 1000] [--pairs 5] [--streams 1]

Debian's `docker-registry` is started on a free port with a model of random bytes in it. Then whole processes
run in turn: `puna pull` into an empty store, with its start-up, its writing and its syncing to the disk, and
`curl URL | sha256sum`, which writes nothing. The ratio is taken within each pair.
"""

import argparse
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puna.store.library import Library
from puna.store.manifests import CONFIG_TYPE, MODEL_LAYER, image_manifest
from puna.store.name import ModelName, parse_name

MEGABYTE = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=1000, help="megabytes (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=1, help="most at once (default: %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, registry(Path(folder)) as host:
        name = parse_name(f"{host}/bench/model:1")
        digest = publish(name, Library(Path(folder, "source")), given.size * MEGABYTE)
        puna(Path(folder, "source"), "push", name)
        url = f"http://{host}/v2/bench/model/blobs/{digest}"
        pairs = []
        for _ in range(given.pairs):
            pulled = pull(Path(folder, "target"), name, given.streams)
            pairs.append((pulled, seconds(["sh", "-c", f"curl -sf {url} | sha256sum"])))
    report(given.size, pairs)


def report(size: int, pairs: list[tuple[float, float]]) -> None:
    """The table of medians."""
    ours, theirs = zip(*pairs, strict=True)
    ratio = statistics.median(peer / own for own, peer in pairs)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print("| what | median | rate |\n| :--- | ---: | ---: |")
    for what, times in (("puna pull", ours), ("curl, sha256sum", theirs)):
        median = statistics.median(times)
        print(f"| {what} | {median:.2f} s | {size / median:.0f} MB/s |")
    print(f"\nratio of the rates, median of {len(pairs)} pairs: {ratio:.2f}")
    print(f"most memory of any process that was started: {memory:.0f} MB")


def publish(name: ModelName, library: Library, size: int) -> str:
    """A model of random bytes in the store; the digest of its weights."""
    with library.session() as session:
        weights = session.add(MODEL_LAYER, (os.urandom(MEGABYTE) for _ in range(size // MEGABYTE)))
        config = session.add(CONFIG_TYPE, [b"{}\n"])
        session.publish(name, image_manifest(config, [weights]))
        return weights.digest


def pull(store: Path, name: ModelName, streams: int) -> float:
    """Seconds of a pull into an empty store."""
    shutil.rmtree(store, ignore_errors=True)
    subprocess.run(["sync"], check=True)
    began = time.perf_counter()
    puna(store, "pull", name, PUNA_MAX_TRANSFER_STREAMS=str(streams))
    return time.perf_counter() - began


def puna(store: Path, command: str, name: ModelName, **more: str) -> None:
    """Run a command of Puna on a store, quietly. Raises: CalledProcessError."""
    environment = {**os.environ, "PUNA_MODELS": str(store), **more}
    arguments = [sys.executable, "-m", "puna", command, "--insecure", str(name)]
    subprocess.run(arguments, check=True, env=environment, stderr=subprocess.DEVNULL)


def seconds(command: list[str]) -> float:
    """Seconds that a process takes. Raises: CalledProcessError."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A registry with its files in `folder`, and where it listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    configuration = folder / "registry.yml"
    configuration.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\nhttp: {{addr: '{host}'}}\n"
    )
    command = ["docker-registry", "serve", str(configuration)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(host, process)
            yield host
        finally:
            process.terminate()


def wait_for(host: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until something listens there. Raises: SystemExit when the process ends."""
    address, _, port = host.partition(":")
    while process.poll() is None:
        try:
            socket.create_connection((address, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("docker-registry does not start; Debian's package of that name has it")


if __name__ == "__main__":
    main()

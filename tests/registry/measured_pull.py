"""A program that pulls one model and prints how much memory that took, as JSON.

`python -m tests.registry.measured_pull NAME FOLDER`: `grown` is bytes, `error` the text of the error.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

from tests.registry.canary import peak_rss, rss
from tests.registry.transfers import pull

from puna.errors import PunaError
from puna.store.library import Library


def main(name: str, folder: str) -> None:
    library, error = Library(Path(folder) / "models"), ""
    # A pull that leads nowhere loads all that a pull needs.
    with suppress(PunaError):
        pull("127.0.0.1:1/t/m:1", library, insecure=True)
    before = rss()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    try:
        pull(name, library, insecure=True)
    except PunaError as fault:
        error = str(fault)
    print(json.dumps({"grown": peak_rss() - before, "error": error}))


if __name__ == "__main__":
    main(*sys.argv[1:])

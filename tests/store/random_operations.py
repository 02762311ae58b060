"""A program that does random things to a store: `python -m tests.store.random_operations ROOT SEED COUNT`.

It prints how often it did each thing.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from puna.errors import ModelNotFound
from puna.store.library import Library
from puna.store.manifests import CONFIG_TYPE, LICENSE_LAYER, MODEL_LAYER, image_manifest
from puna.store.name import ModelName, parse_name

NAMES = [parse_name(f"model{number}") for number in range(5)]
# Few contents, so that models share blobs and one deletes what another is about to use.
CONTENTS = [bytes([65 + number]) * 200_000 for number in range(4)]


def create(library: Library, chance: random.Random) -> None:
    with library.session() as session:
        chosen = chance.sample(CONTENTS, 2)
        layers = [session.add(MODEL_LAYER, [chosen[0]]), session.add(LICENSE_LAYER, [chosen[1]])]
        session.publish(name(chance), image_manifest(session.add(CONFIG_TYPE, [b"{}"]), layers))


def copy(library: Library, chance: random.Random) -> None:
    library.copy(name(chance), name(chance))


def remove(library: Library, chance: random.Random) -> None:
    library.delete(name(chance))


def prune(library: Library, _: random.Random) -> None:
    library.prune(0)


def name(chance: random.Random) -> ModelName:
    return chance.choice(NAMES)


OPERATIONS: list[Callable[[Library, random.Random], None]] = [create, create, copy, remove, prune]


def main(root: str, seed: str, count: str) -> None:
    library, chance = Library(Path(root)), random.Random(int(seed))
    done: Counter[str] = Counter()
    for _ in range(int(count)):
        operation = chance.choice(OPERATIONS)
        try:
            operation(library, chance)
            done[operation.__name__] += 1
        except ModelNotFound:
            done["not found"] += 1
    print(*(f"{key}={value}" for key, value in sorted(done.items())))


if __name__ == "__main__":
    main(*sys.argv[1:])

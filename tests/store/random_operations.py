"""A program that does random things to a store, and prints how often it did each.

`python -m tests.store.random_operations ROOT SEED COUNT REGISTRY`: the registry, at `host:port`, has the
models `IMAGES`.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.registry.images import image
from tests.registry.transfers import pull

from puna.errors import ModelNotFound
from puna.store.library import Library
from puna.store.manifests import CONFIG_TYPE, LICENSE_LAYER, MODEL_LAYER, image_manifest
from puna.store.name import ModelName, parse_name

# Few contents, so that models share blobs and one deletes what another is about to use.
CONTENTS = [bytes([65 + number]) * 200_000 for number in range(4)]
IMAGES = {
    f"library/remote{number}": image(CONTENTS[number], ("license", CONTENTS[3 - number]), config=b"{}")
    for number in range(3)
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does things to a store, by chance."""

    library: Library
    chance: random.Random
    local: list[ModelName]
    remote: list[ModelName]

    def name(self) -> ModelName:
        """A model's, of those that may be here."""
        return self.chance.choice([*self.local, *self.remote])


def create(actor: Actor) -> None:
    with actor.library.session() as session:
        chosen = actor.chance.sample(CONTENTS, 2)
        layers = [session.add(MODEL_LAYER, [chosen[0]]), session.add(LICENSE_LAYER, [chosen[1]])]
        config = session.add(CONFIG_TYPE, [b"{}"])
        session.publish(actor.chance.choice(actor.local), image_manifest(config, layers))


def fetch(actor: Actor) -> None:
    pull(str(actor.chance.choice(actor.remote)), actor.library)


def copy(actor: Actor) -> None:
    actor.library.copy(actor.name(), actor.name())


def remove(actor: Actor) -> None:
    actor.library.delete(actor.name())


def prune(actor: Actor) -> None:
    actor.library.prune(0)


OPERATIONS: list[Callable[[Actor], None]] = [create, fetch, fetch, copy, remove, remove, prune]


def main(root: str, seed: str, count: str, registry: str) -> None:
    local = [parse_name(f"model{number}") for number in range(3)]
    remote = [parse_name(f"{registry}/{repository}") for repository in IMAGES]
    actor = Actor(Library(Path(root)), random.Random(int(seed)), local, remote)
    done: Counter[str] = Counter()
    for _ in range(int(count)):
        operation = actor.chance.choice(OPERATIONS)
        try:
            operation(actor)
            done[operation.__name__] += 1
        except ModelNotFound:
            done["not found"] += 1
    print(*(f"{key}={value}" for key, value in sorted(done.items())))


if __name__ == "__main__":
    main(*sys.argv[1:])

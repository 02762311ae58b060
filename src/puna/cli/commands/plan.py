"""`puna plan MODEL`: what memory a model would take, device by device, before it is loaded."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puna.cli import terminal
from puna.cli.models import find_model
from puna.cli.table import table_lines
from puna.engine.options import DEFAULT_CACHE_TYPE, LoadOptions
from puna.humanize import bytes_text
from puna.runner.protocol import Device, Loaded
from puna.scheduler.fit import Shortage, shortages_alone
from puna.scheduler.launch import AUTOMATIC_PARALLEL, launch_options
from puna.scheduler.memory import HostMemory, free_memory
from puna.scheduler.state import SchedulerOptions

if TYPE_CHECKING:
    from puna.gguf.hyperparameters import Hyperparameters
    from puna.ml import BackendMemory


@dataclass(frozen=True, slots=True)
class CachedLayers:
    """Layers whose keys and values take the same room.

    Attributes:
        layers: how many.
        heads: key and value heads of each.
        key_length, value_length: elements of a key and of a value.
        cells: tokens that each layer has room for.
        nbytes: of all of them.
    """

    layers: int
    heads: int
    key_length: int
    value_length: int
    cells: int
    nbytes: int

    @property
    def element_size(self) -> float:
        """Bytes per element."""
        return self.nbytes / (self.layers * self.heads * (self.key_length + self.value_length) * self.cells)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model would lie, and whether there is room for it.

    Attributes:
        need: what it takes of each device.
        cache: how its cache comes about.
        memory: of the machine.
        missing: the devices that are too small; none if it fits.
    """

    path: Path
    kv_cache_type: str
    need: Loaded
    cache: tuple[CachedLayers, ...]
    memory: HostMemory
    missing: tuple[Shortage, ...]

    @property
    def states(self) -> int:
        """Bytes of what layers carry from token to token in place of keys and values."""
        return sum(device.cache for device in self.need.devices) - sum(group.nbytes for group in self.cache)


@click.command("plan", short_help="Show what memory a model would take")
@click.argument("model")
@click.option(
    "-o", "--option", "assignments", multiple=True, metavar="NAME=VALUE", help="An option, as num_ctx=8192."
)
@click.option(
    "--num-parallel",
    type=click.IntRange(min=1),
    default=AUTOMATIC_PARALLEL,
    show_default=True,
    help="Requests to compute at once, each with a whole context.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON; sizes are in bytes.")
def command(model: str, assignments: tuple[str, ...], num_parallel: int, as_json: bool) -> int:
    """Show what memory MODEL would take of each device, and whether it is free.

    The sizes are those that loading would allocate, an image encoder in a file of its own included, but
    nothing is allocated. The exit status is 1 if the model does not fit. MODEL is a GGUF file, a model in
    the store, or pypi://package[:version].
    """
    from puna.cli.options import option_values, parse_assignments
    from puna.engine.request import uses
    from puna.services.adapters import adapted
    from puna.services.options import read_options
    from puna.services.projectors import projector_beside, seeing

    given = option_values(parse_assignments(assignments))
    read_options(given)
    found = find_model(model)
    asked = read_options(given, found.model.parameters if found.model else {}).load
    asked = adapted(asked, uses(found.adapters))
    asked = seeing(asked, projector_beside(found.path, found.model))
    placement = plan_placement(found.path, asked, num_parallel)
    text = json.dumps(as_plain(placement), indent=2) if as_json else "\n".join(render(placement))
    terminal.show(text + "\n")
    return 1 if placement.missing else 0


def plan_placement(path: Path, asked: LoadOptions, num_parallel: int) -> Placement:
    """What loading would do, by a dry run.

    Raises:
        PunaError: the model cannot be loaded.
    """
    # Only now, with the model at hand, is the compute half worth its start-up time.
    from puna.engine.load import plan_model
    from puna.gguf.hyperparameters import read_hyperparameters
    from puna.gguf.reader import GGUFFile
    from puna.runner.worker import devices

    options = launch_options(asked, SchedulerOptions(num_parallel=num_parallel))
    memory, num_ctx, layers = plan_model(path, options)
    with GGUFFile.open(path) as file:
        sizes = read_hyperparameters(file.metadata)
    need = Loaded(num_ctx, num_parallel, devices(memory), layers)
    host = free_memory()
    missing = shortages_alone(need, options, host, 0, None, ())
    kv_cache_type = options.kv_cache_type or DEFAULT_CACHE_TYPE
    cache = tuple(cached_layers(memory, sizes, kv_cache_type))
    return Placement(path, kv_cache_type, need, cache, host, tuple(missing))


def cached_layers(
    memory: "BackendMemory", sizes: "Hyperparameters", kv_cache_type: str
) -> Iterator[CachedLayers]:
    """The layers by the room that their keys and values take."""
    from puna.gguf.types import GGMLType

    type_ = GGMLType[kv_cache_type.upper()]
    devices = (memory.cpu, *memory.gpus)
    taken = [sum(sizes_.size for sizes_ in layer) for layer in zip(*(d.cache for d in devices), strict=True)]
    groups = Counter(
        (heads, size) for heads, size in zip(sizes.head_count_kv, taken, strict=False) if heads and size
    )
    for (heads, size), layers in groups.items():
        cell = type_.nbytes((heads * sizes.key_length,)) + type_.nbytes((heads * sizes.value_length,))
        yield CachedLayers(layers, heads, sizes.key_length, sizes.value_length, size // cell, layers * size)


def render(placement: Placement) -> Iterator[str]:
    """The lines people read."""
    need = placement.need
    yield f"context   {need.num_ctx} tokens × {need.num_parallel} requests at once"
    for group in placement.cache:
        yield f"KV cache  {cache_text(group, placement.kv_cache_type)}"
    if placement.states:
        yield f"states    {bytes_text(placement.states)}, however long the texts"
    yield ""
    header = ("DEVICE", "LAYERS", "WEIGHTS", "CACHE", "GRAPH", "TOGETHER", "FREE NOW")
    yield from table_lines(header, [_row(device, placement.memory) for device in need.devices])
    yield ""
    yield verdict(need, placement.missing)


def cache_text(group: CachedLayers, kv_cache_type: str) -> str:
    """How many bytes, as a product."""
    lengths = f"{group.key_length} + {group.value_length}"
    factors = f"{group.layers} layers × {group.heads} heads × ({lengths}) × {group.cells} cells"
    size = f"{group.element_size:g} bytes ({kv_cache_type})"
    return f"{factors} × {size} = {group.nbytes} ({bytes_text(group.nbytes)})"


def verdict(need: Loaded, missing: Sequence[Shortage]) -> str:
    """Whether it fits, in a sentence."""
    if not missing:
        return f"It takes {bytes_text(need.size)}, and fits."
    return f"It does not fit: it needs {'; '.join(map(str, missing))}. Lower num_ctx or --num-parallel."


def _row(device: Device, memory: HostMemory) -> tuple[str, ...]:
    sizes = (device.weights, device.cache, device.graph, device.size)
    free = device.free if device.gpu else memory.available
    return (device.name, str(device.layers), *map(bytes_text, sizes), bytes_text(free) if free else "unknown")


def as_plain(placement: Placement) -> dict[str, Any]:
    """The same for JSON; sizes in bytes, 0 where one is not known."""
    need, memory = placement.need, placement.memory
    return {
        "path": str(placement.path),
        "num_ctx": need.num_ctx,
        "num_parallel": need.num_parallel,
        "kv_cache_type": placement.kv_cache_type,
        "layers": need.layers,
        "devices": [
            {
                "name": device.name,
                "gpu": device.gpu,
                "layers": device.layers,
                "weights": device.weights,
                "cache": device.cache,
                "graph": device.graph,
                "size": device.size,
                "free": device.free if device.gpu else memory.available,
                "total": device.total if device.gpu else memory.total,
            }
            for device in need.devices
        ],
        "cache": [
            {
                "layers": group.layers,
                "heads": group.heads,
                "key_length": group.key_length,
                "value_length": group.value_length,
                "cells": group.cells,
                "element_size": group.element_size,
                "size": group.nbytes,
            }
            for group in placement.cache
        ],
        "states": placement.states,
        "size": need.size,
        "fits": not placement.missing,
        "missing": [
            {"device": short.device, "needed": short.needed, "free": short.free}
            for short in placement.missing
        ],
    }

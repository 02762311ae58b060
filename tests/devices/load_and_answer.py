"""Loads a model with the options given as JSON, answers one prompt, and prints what happened as JSON.

A process of its own: ggml's RPC client ends the process when a server is gone.
"""

import json
import sys
from pathlib import Path

from puna.engine import LoadOptions, TextChunk, load_model
from puna.errors import PunaError
from puna.ml import DeviceMemory
from puna.sampling.parameters import SamplingParameters

GREEDY = SamplingParameters(temperature=0.0)


def _report(device: DeviceMemory) -> dict[str, object]:
    return {
        "name": device.name,
        "weights": [entry.size for entry in device.weights],
        "cache": [entry.size for entry in device.cache],
        "graph": device.graph.size,
    }


def _run(path: Path, options: LoadOptions) -> dict[str, object]:
    with load_model(path, options) as model:
        prompts = [[0, 70, 71, 72, 73], [0, 70, 71, 90, 91, 92]]
        texts = [
            "".join(e.text for e in model.generate(p, GREEDY, num_predict=24) if isinstance(e, TextChunk))
            for p in prompts
        ]
        devices = [_report(device) for device in (model.memory.cpu, *model.memory.gpus)]
        return {"texts": texts, "devices": devices}


def main() -> None:
    options = json.loads(sys.argv[2])
    for name in ("tensor_split", "rpc_servers"):
        options[name] = tuple(options.get(name, ()))
    try:
        result = _run(Path(sys.argv[1]), LoadOptions(num_threads=1, num_batch=64, **options))
    except PunaError as error:
        result = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

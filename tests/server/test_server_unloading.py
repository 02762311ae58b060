"""What leaves memory when models are removed."""

from pathlib import Path

from tests.scripted_llama import START, write_scripted_llama
from tests.served_models import CHAT, GREEDY, add_model
from tests.server.conftest import Serve

from puna.store.library import Library
from puna.store.name import parse_name


def test_a_model_without_a_name_leaves_memory(server: Serve, library: Library, tmp_path: Path) -> None:
    for number, name in enumerate(("said", "kept")):
        path = write_scripted_llama(tmp_path / f"{name}.gguf", ("one", "two", "three")[number:])
        add_model(library, name, path, template=CHAT + START, parameters=GREEDY)
    library.copy(parse_name("said"), parse_name("other"))
    running = server()
    for name in ("said", "kept"):
        running.post("/api/generate", {"model": name, "keep_alive": -1})
    # The other name is of the same file.
    for name, left in (("said", {"said:latest", "kept:latest"}), ("other", {"kept:latest"})):
        assert running.ask("DELETE", "/api/delete", {"model": name}).status == 200
        assert {model.name for model in running.state.scheduler.loaded()} == left

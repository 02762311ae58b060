from collections.abc import Iterator

import pytest
from tests.client.played_server import PlayedServer, playing

from puna.client import Client


@pytest.fixture
def server() -> Iterator[PlayedServer]:
    with playing() as server:
        yield server


@pytest.fixture
def client(server: PlayedServer) -> Iterator[Client]:
    with Client(server.url, api_key="secret") as client:
        yield client

"""Ranks over HTTP against transformers, with the same weights and its own tokenizer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.served import Served, serving
from tests.served_models import add_model

from puna.store.library import Library

pytestmark = pytest.mark.transformers

ROUNDED = 1e-3
QUERY = "which planet is red"
DOCUMENTS = ["mars", "the red one", "venus is hot", "mars", "a planet like no other is it not"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A server with the model `ranks`, and what transformers says of the documents."""

    server: Served
    scores: list[float]
    tokens: int


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranking]:
    import torch
    import transformers
    from tests.models import hf_models
    from tests.models.hf_folders import write_gguf

    folder = tmp_path_factory.mktemp("ranking")
    file = write_gguf(folder / "ranks.gguf", hf_models.bert(7, labels=1))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "ranks").eval()
    tokenizer = transformers.BertTokenizer(vocab=str(folder / "ranks" / "vocab.txt"))
    with torch.no_grad():
        pairs = [tokenizer(QUERY, document, return_tensors="pt") for document in DOCUMENTS]
        scores = [float(model(**pair).logits[0, 0]) for pair in pairs]
    add_model(Library(folder / "models"), "ranks", file)
    with serving(folder, folder / "models") as server:
        yield Ranking(server, scores, sum(pair["input_ids"].numel() for pair in pairs))


def ranked(ranking: Ranking, path: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "ranks", "query": QUERY, "documents": DOCUMENTS, **fields}
    reply = ranking.server.post(path, body)
    assert reply.status == 200, reply.body
    document: dict[str, Any] = reply.json
    assert document["usage"] == {"prompt_tokens": ranking.tokens, "total_tokens": ranking.tokens}
    return document


@pytest.mark.parametrize("path", ["/api/rerank", "/v1/rerank"])
def test_scores_are_those_of_transformers(ranking: Ranking, path: str) -> None:
    results = ranked(ranking, path)["results"]
    assert sorted(result["index"] for result in results) == [*range(len(DOCUMENTS))]
    found = [result["relevance_score"] for result in results]
    assert found == sorted(found, reverse=True)
    # They are apart by far more than what rounding does.
    assert max(found) - min(found) > 50 * ROUNDED
    for result in results:
        assert result["relevance_score"] == pytest.approx(ranking.scores[result["index"]], abs=ROUNDED)
    # Of equals the first comes first.
    assert [result["index"] for result in results if result["index"] in (0, 3)] == [0, 3]


def test_only_the_best(ranking: Ranking) -> None:
    best = ranked(ranking, "/v1/rerank")["results"]
    assert ranked(ranking, "/v1/rerank", top_n=2)["results"] == best[:2]
    native = ranked(ranking, "/api/rerank", top_n=2)["results"]
    assert [(one["index"], one["relevance_score"]) for one in native] == [
        (one["index"], one["relevance_score"]) for one in best[:2]
    ]


def test_the_documents_themselves(ranking: Ranking) -> None:
    given = [{"text": document, "id": 1} for document in DOCUMENTS]
    reply = ranked(ranking, "/v1/rerank", documents=given, return_documents=True)
    assert (reply["object"], reply["model"]) == ("list", "ranks") and reply["id"].startswith("rerank-")
    native = ranked(ranking, "/api/rerank")
    for results in (reply["results"], native["results"]):
        assert all(one["document"] == {"text": DOCUMENTS[one["index"]]} for one in results)
    assert "document" not in ranked(ranking, "/v1/rerank")["results"][0]

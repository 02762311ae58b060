"""LoRA adapters of single requests: each gets what it gets alone, whoever is computed with it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests import lora
from tests.engine.driving import MARGINS, VARIED, Alone, Answer, alone, finish, loaded, request, run
from tests.tiny_llama import BOS, EOS, VOCABULARY, write_tiny_llama

from puna.engine.load import LoadedModel
from puna.engine.request import MAX_ADAPTERS, AdapterUse, GenerateRequest
from puna.errors import GGUFError, InvalidOption, UnsupportedModel, WeightError
from puna.ml.nn import LowRank
from puna.sampling.parameters import SamplingParameters

TOLD = SamplingParameters(**VARIED, logprobs=True)
Uses = tuple[tuple[str, float], ...]
MIXED: tuple[Uses, ...] = (
    (),
    (("a", 1.0),),
    (("b", 0.5),),
    (("a", 1.0), ("b", 1.0)),
    (("b", 1.0), ("a", -0.5)),
    (("a", 0.25),),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and some adapters for it."""
    root = tmp_path_factory.mktemp("adapters")
    base = write_tiny_llama(root / "base.gguf")
    names = ["token_embd.weight", "output.weight", "blk.0.attn_v.weight", "blk.1.ffn_gate.weight"]
    lora.write_adapter(root / "a.gguf", base, seed=1)
    lora.write_adapter(root / "b.gguf", base, names, seed=2, rank=6)
    for number in range(MAX_ADAPTERS + 2):
        lora.write_adapter(root / f"{number}.gguf", base, ["blk.0.attn_q.weight"], seed=10 + number)
    return root


@pytest.fixture
def model(folder: Path) -> Iterator[LoadedModel]:
    with loaded(folder / "base.gguf", num_ctx=128, num_parallel=8) as found:
        yield found


def prompt(seed: int, length: int = 30) -> list[int]:
    return [BOS, *np.random.default_rng(seed).integers(2, VOCABULARY, length).tolist()]


def adapted(folder: Path, tokens: list[int], uses: Uses, num_predict: int = 20) -> GenerateRequest:
    adapters = tuple(AdapterUse(str(folder / f"{name}.gguf"), scale) for name, scale in uses)
    return request(tokens, num_predict, adapters=adapters, sampling=TOLD)


def expected(folder: Path, tmp_path: Path, tokens: list[int], uses: Uses, num_predict: int = 20) -> Alone:
    """The answer of a model into which the adapters are merged."""
    adapters = [(folder / f"{name}.gguf", scale) for name, scale in uses]
    merged = lora.write_merged(tmp_path / "merged.gguf", folder / "base.gguf", adapters)
    with loaded(merged, num_ctx=128) as model:
        return alone(model, request(tokens, num_predict))


def agrees(answer: Answer, wanted: Alone) -> None:
    assert answer.error is None
    assert wanted.agrees([token.id for token in answer.logprobs], MARGINS["llama"])


@pytest.mark.parametrize("num_batch", [512, 16])
def test_each_gets_what_it_gets_alone(folder: Path, tmp_path: Path, num_batch: int) -> None:
    """Six requests with none, one and two adapters, their prompts whole and in pieces."""
    prompts = [prompt(seed, 20 + 7 * seed) for seed in range(len(MIXED))]
    with loaded(folder / "base.gguf", num_ctx=128, num_parallel=8, num_batch=num_batch) as model:
        asked = [adapted(folder, tokens, uses) for tokens, uses in zip(prompts, MIXED, strict=True)]
        together = run(model.engine, *asked)
        model.engine.forget()
        apart = [run(model.engine, one)[0] for one in asked]
        for tokens, uses, one, other in zip(prompts, MIXED, together, apart, strict=True):
            wanted = expected(folder, tmp_path, tokens, uses)
            agrees(one, wanted)
            agrees(other, wanted)


def test_one_prompt_has_other_answers(model: LoadedModel, folder: Path) -> None:
    tokens = prompt(1)
    answers = run(model.engine, *(adapted(folder, tokens, uses) for uses in MIXED))
    assert len({answer.text for answer in answers}) == len(MIXED)
    plain, zero = run(model.engine, request(tokens), adapted(folder, tokens, (("a", 0.0),)))
    assert plain.text == zero.text == answers[0].text


def test_the_cache_is_kept_apart(model: LoadedModel, folder: Path, tmp_path: Path) -> None:
    """What was computed with other adapters, or other scales, is not found again."""
    tokens = prompt(2)
    for uses in MIXED:
        [answer] = run(model.engine, adapted(folder, tokens, uses))
        assert answer.counts.cached_tokens == 0
        agrees(answer, expected(folder, tmp_path, tokens, uses))
    for uses in MIXED:
        [answer] = run(model.engine, adapted(folder, tokens, tuple(reversed(uses))))
        assert answer.counts.cached_tokens == len(tokens) - 1
        agrees(answer, expected(folder, tmp_path, tokens, uses))


def test_two_with_one_prompt_and_one_adapter_share_it(model: LoadedModel, folder: Path) -> None:
    tokens = prompt(3)
    one = adapted(folder, tokens, (("a", 1.0),))
    answers = {0: Answer(), 1: Answer(), 2: Answer()}
    model.engine.submit(0, one)
    for id, event in model.engine.step().events:
        answers[id].take(event)
    model.engine.submit(1, one)
    model.engine.submit(2, adapted(folder, tokens, (("a", 2.0),)))
    finish(model.engine, answers)
    assert answers[1].counts.cached_tokens == len(tokens) - 1
    assert answers[2].counts.cached_tokens == 0
    assert answers[0].text == answers[1].text != answers[2].text


def test_those_of_the_model_apply_where_none_is_named(folder: Path) -> None:
    tokens, own = prompt(4), str(folder / "a.gguf")
    with loaded(folder / "base.gguf", num_ctx=128, num_parallel=8, adapters=(own,)) as model:
        usual, named, other, none = run(
            model.engine,
            request(tokens),
            adapted(folder, tokens, (("a", 1.0),)),
            adapted(folder, tokens, (("b", 0.5),)),
            adapted(folder, tokens, ()),
        )
    assert usual.text == named.text
    assert len({usual.text, other.text, none.text}) == 3


def test_more_adapters_than_there_is_room_for_take_turns(model: LoadedModel, folder: Path) -> None:
    asked = [
        adapted(folder, prompt(5), ((str(number), 1.0), ("a", 0.5)), 6) for number in range(MAX_ADAPTERS + 2)
    ]
    together = run(model.engine, *asked)
    assert len(model._adapters.all) == MAX_ADAPTERS
    model.engine.forget()
    for one, answer in zip(asked, together, strict=True):
        [again] = run(model.engine, one)
        assert answer.text == again.text
        assert len(model._adapters.all) == MAX_ADAPTERS


def test_memory_is_counted(model: LoadedModel, folder: Path) -> None:
    before = model.memory
    run(model.engine, adapted(folder, prompt(6), (("a", 1.0),)))
    size = sum(half.nbytes for half in lora.tensors(folder / "a.gguf").values())
    after = model.memory
    assert sum(entry.size for entry in after.cpu.weights) == sum(m.size for m in before.cpu.weights) + size


def test_a_file_that_does_not_fit_fails_its_request_only(
    model: LoadedModel, folder: Path, tmp_path: Path
) -> None:
    wide = write_tiny_llama(tmp_path / "wide.gguf", hidden=128)
    lora.write_adapter(tmp_path / "wide.lora", wide)
    tokens = prompt(7)
    bad = [AdapterUse(str(tmp_path / "wide.lora")), AdapterUse(str(tmp_path / "none.gguf"))]
    answers = run(
        model.engine,
        adapted(folder, tokens, ()),
        *(request(tokens, adapters=(one,)) for one in bad),
        adapted(folder, tokens, (("a", 1.0),)),
    )
    assert isinstance(answers[1].error, WeightError) and "does not fit the model" in str(answers[1].error)
    assert isinstance(answers[2].error, GGUFError) and "no such file" in str(answers[2].error)
    assert answers[0].counts.generated_tokens == answers[3].counts.generated_tokens == 20
    [again] = run(model.engine, adapted(folder, tokens, ()))
    assert again.text == answers[0].text


def test_drafts_are_evaluated_with_them(model: LoadedModel, folder: Path) -> None:
    """An answer that repeats itself is the same, drafted or not."""
    greedy = SamplingParameters(temperature=0.0, logit_bias={EOS: -1000.0})
    own = (AdapterUse(str(folder / "a.gguf")),)
    one, other = (
        run(model.engine, request(prompt(8), 80, adapters=own, sampling=greedy, draft=draft))[0]
        for draft in (0, 4)
    )
    assert one.text == other.text
    assert one.counts.drafted_tokens == 0 < other.counts.drafted_tokens


def test_what_the_model_cannot_be_computed_with_fails_its_request_only(
    model: LoadedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found out when the adapter comes, before anybody else is computed with it."""

    def refused(part: LowRank, x: object, ids: object, scales: object) -> None:
        raise UnsupportedModel("adapters cannot be applied to attn_q.weight of this model")

    asked = [adapted(folder, prompt(9), ()), adapted(folder, prompt(9), (("a", 1.0),))]
    with monkeypatch.context() as patched:
        patched.setattr(LowRank, "product", refused)
        plain, failed = run(model.engine, *asked)
    assert plain.counts.generated_tokens == 20
    assert isinstance(failed.error, UnsupportedModel)
    assert not model._adapters.all
    assert run(model.engine, asked[1])[0].counts.generated_tokens == 20


def test_another_cache_leaves_adapters_where_they_are(model: LoadedModel, folder: Path) -> None:
    tokens = prompt(8)
    [before] = run(model.engine, adapted(folder, tokens, (("a", 1.0),)))
    adapters, weights = model._adapters.all, model.memory.cpu.weights
    model.resize(model.options)
    [after] = run(model.engine, adapted(folder, tokens, (("a", 1.0),)))
    assert after.text == before.text
    assert model._adapters.all == adapters
    assert model.memory.cpu.weights == weights


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf"), -11.0])
def test_a_scale_is_a_number(scale: float) -> None:
    with pytest.raises(InvalidOption, match="the scale of an adapter must be a number from -10 to 10"):
        AdapterUse("a.gguf", scale)


def test_how_many_a_request_may_name() -> None:
    with pytest.raises(InvalidOption, match=f"there are 9 adapters; at most {MAX_ADAPTERS} are allowed"):
        request([BOS], adapters=tuple(AdapterUse(str(number)) for number in range(9)))
    with pytest.raises(InvalidOption, match="named twice"):
        request([BOS], adapters=(AdapterUse("a"), AdapterUse("a", 0.5)))

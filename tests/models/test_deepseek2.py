"""DeepSeek V2 and V3, and GLM 4.7 Flash, with keys and values absorbed and expanded, against transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models import hf_models
from tests.models.agreement import Write, check, check_removal
from tests.models.driver import evaluate, opened
from tests.models.hf_to_gguf import write_expanded, write_model, write_narrow

pytestmark = pytest.mark.transformers

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "mscale": 0.7,
    "mscale_all_dim": 0.7,
}
YARN_WITHOUT = {key: value for key, value in YARN.items() if not key.startswith("mscale")}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "V2, lite": ("V2", {"q_lora_rank": None}),
    "V2, yarn": ("V2", {"rope_parameters": YARN}),
    "V2, yarn that leaves scores alone": ("V2", {"rope_parameters": YARN_WITHOUT}),
    "V2, groups": (
        "V2",
        {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3},
    ),
    "V2, all experts, one shared, tied": (
        "V2",
        {"num_experts_per_tok": 8, "n_shared_experts": 1, "tie_word_embeddings": True},
    ),
    "V3, no groups": ("V3", {}),
    "V3, groups": ("V3", {"n_group": 4, "topk_group": 2, "rope_parameters": YARN}),
    "V3, groups, weights as they are": (
        "V3",
        {"n_group": 2, "topk_group": 1, "norm_topk_prob": False, "num_experts_per_tok": 4},
    ),
    "GLM 4.7 Flash": ("Flash", {"first_k_dense_replace": None, "n_shared_experts": 1}),
    "V3, dense": ("V3", {"first_k_dense_replace": 3, "v_head_dim": 20}),
}

WAYS = [write_model, write_expanded]


@pytest.mark.parametrize("write", WAYS, ids=["absorbed", "expanded"])
@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(
    case: str, write: Write, backend_name: str, tmp_path: Path
) -> None:
    kind, changes = CASES[case]
    seed = list(CASES).index(case)
    model = hf_models.deepseek(kind, seed, **changes)
    check(tmp_path / "model.gguf", model, write, backend_name, seed)


@pytest.mark.parametrize("write", WAYS, ids=["absorbed", "expanded"])
def test_tokens_taken_out_leave_no_trace(write: Write, backend_name: str, tmp_path: Path) -> None:
    model = hf_models.deepseek("V3", 9, num_hidden_layers=1, rope_parameters=YARN)
    check_removal(tmp_path / "model.gguf", model, write, backend_name)


def test_narrow_matrices_of_heads(tmp_path: Path) -> None:
    """They lie one behind the other like those of experts, but are not multiplied as those are."""
    sizes = {"kv_lora_rank": 64, "qk_nope_head_dim": 32, "v_head_dim": 32, "num_hidden_layers": 1}
    model = hf_models.deepseek("V2", 5, **sizes)
    narrow = {"blk.0.attn_k_b.weight", "blk.0.attn_v_b.weight"}
    write_narrow(tmp_path / "model.gguf", model, narrow)
    tokens = hf_models.random_tokens(5, 45)
    found = []
    for backend in ("reference", "ggml"):
        with opened(tmp_path / "model.gguf", backend) as evaluator:
            found.append(evaluate(evaluator, tokens, chunk=45))
    assert np.abs(found[0] - found[1]).max() < 0.1
    assert np.abs(found[0] - hf_models.logits(model, tokens)).max() > 0.1

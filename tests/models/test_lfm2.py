"""LFM2, of one piece and with experts, against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_company, check_resumed
from tests.models.hf_to_gguf import write_model

pytestmark = pytest.mark.transformers

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
CONVOLUTIONS = ["conv", "conv", "full_attention", "conv"]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lfm2": ("Lfm2", {}),
    "tied, one head for all": ("Lfm2", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "five taps, all heads": ("Lfm2", {"conv_L_cache": 5, "num_key_value_heads": 4}),
    "two taps, attention last": (
        "Lfm2",
        {"conv_L_cache": 2, "layer_types": CONVOLUTIONS[::-1][1:] * 2, "num_hidden_layers": 6},
    ),
    "attention first": ("Lfm2", {"layer_types": ["full_attention", "conv", "conv", "conv"]}),
    "attention only": ("Lfm2", {"layer_types": ["full_attention"] * 4}),
    "yarn": ("Lfm2", {"rope_parameters": YARN}),
    "lfm2moe": ("Lfm2Moe", {}),
    "lfm2moe, tied, all sparse": ("Lfm2Moe", {"tie_word_embeddings": True, "num_dense_layers": 0}),
    "lfm2moe, weights as they are, no corrections": (
        "Lfm2Moe",
        {"norm_topk_prob": False, "use_expert_bias": False, "routed_scaling_factor": 1.5},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    kind, changes = CASES[case]
    seed = list(CASES).index(case)
    model = hf_models.lfm2(kind, seed, **{"tie_word_embeddings": False} | changes)
    check(tmp_path / "model.gguf", model, write_model, backend_name, seed)


@pytest.mark.parametrize("kind", ["Lfm2", "Lfm2Moe"])
def test_sequences_of_different_lengths_share_batches(kind: str, backend_name: str, tmp_path: Path) -> None:
    check_company(tmp_path / "model.gguf", hf_models.lfm2(kind, 20), write_model, backend_name)


@pytest.mark.parametrize("kind", ["Lfm2", "Lfm2Moe"])
def test_sequences_go_on_from_kept_states(kind: str, backend_name: str, tmp_path: Path) -> None:
    check_resumed(tmp_path / "model.gguf", hf_models.lfm2(kind, 21), write_model, backend_name)

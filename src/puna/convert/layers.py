"""Tensors that the layers of many decoders have, by Hugging Face's names, see `Weight`."""

from puna.convert.decoder import Layer, Weight


def attention(*, pairs: bool = False) -> Layer:
    """Grouped-query attention.

    Args:
        pairs: neighbouring numbers are rotated together, not one of each half, which is how the files have
            them: arXiv:2104.09864 against its form in GPT-NeoX.
    """
    queries, keys = ("heads", "kv_heads") if pairs else ("", "")
    return {
        "self_attn.q_proj.weight": Weight("attn_q.weight", ("queries", "hidden"), pairs=queries),
        "self_attn.k_proj.weight": Weight("attn_k.weight", ("keys", "hidden"), pairs=keys),
        "self_attn.v_proj.weight": Weight("attn_v.weight", ("keys", "hidden")),
        "self_attn.o_proj.weight": Weight("attn_output.weight", ("hidden", "queries")),
        "self_attn.q_proj.bias": Weight("attn_q.bias", ("queries",), optional=True, pairs=queries),
        "self_attn.k_proj.bias": Weight("attn_k.bias", ("keys",), optional=True, pairs=keys),
        "self_attn.v_proj.bias": Weight("attn_v.bias", ("keys",), optional=True),
        "self_attn.o_proj.bias": Weight("attn_output.bias", ("hidden",), optional=True),
    }


def norms(names: dict[str, str]) -> Layer:
    """Norms of the state, by the names of both sides without `.weight`."""
    return {f"{theirs}.weight": Weight(f"{ours}.weight", ("hidden",)) for theirs, ours in names.items()}


PRE_NORMS = norms({"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"})

HEAD_NORMS: Layer = {
    "self_attn.q_norm.weight": Weight("attn_q_norm.weight", ("head",)),
    "self_attn.k_norm.weight": Weight("attn_k_norm.weight", ("head",)),
}

FEED_FORWARD: Layer = {
    "mlp.gate_proj.weight": Weight("ffn_gate.weight", ("feed_forward", "hidden")),
    "mlp.up_proj.weight": Weight("ffn_up.weight", ("feed_forward", "hidden")),
    "mlp.down_proj.weight": Weight("ffn_down.weight", ("hidden", "feed_forward")),
    "mlp.gate_proj.bias": Weight("ffn_gate.bias", ("feed_forward",), optional=True),
    "mlp.up_proj.bias": Weight("ffn_up.bias", ("feed_forward",), optional=True),
    "mlp.down_proj.bias": Weight("ffn_down.bias", ("hidden",), optional=True),
}

EXPERTS: Layer = {
    "mlp.gate.weight": Weight("ffn_gate_inp.weight", ("experts", "hidden"), matrix=False),
    "mlp.experts.gate_proj.weight": Weight("ffn_gate_exps.weight", ("experts", "expert_width", "hidden")),
    "mlp.experts.up_proj.weight": Weight("ffn_up_exps.weight", ("experts", "expert_width", "hidden")),
    "mlp.experts.down_proj.weight": Weight("ffn_down_exps.weight", ("experts", "hidden", "expert_width")),
}

SHARED_FEED_FORWARD: Layer = {
    "mlp.shared_expert.gate_proj.weight": Weight("ffn_gate_shexp.weight", ("shared_width", "hidden")),
    "mlp.shared_expert.up_proj.weight": Weight("ffn_up_shexp.weight", ("shared_width", "hidden")),
    "mlp.shared_expert.down_proj.weight": Weight("ffn_down_shexp.weight", ("hidden", "shared_width")),
}

SHARED_EXPERT: Layer = {
    **SHARED_FEED_FORWARD,
    "mlp.shared_expert_gate.weight": Weight("ffn_gate_inp_shexp.weight", ("one", "hidden"), matrix=False),
}

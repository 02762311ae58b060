"""Eight-bit matrices with scales, against torch."""

from pathlib import Path
from typing import Any

import pytest

from puna.convert.content import Source
from puna.convert.float8 import unscaled
from puna.convert.folder import read_all
from puna.errors import FormatError, PunaError, UnsupportedModel

pytestmark = pytest.mark.transformers

ROWS, COLUMNS = 70, 45
BLOCKS = {"quant_method": "fp8", "weight_block_size": [32, 16]}


def matrix(dtype: str = "float8_e4m3fn") -> Any:
    """Every code there is, and random ones."""
    import torch

    torch.manual_seed(1)
    codes = torch.randint(0, 256, (ROWS, COLUMNS), dtype=torch.uint8)
    codes.view(-1)[:256] = torch.arange(256, dtype=torch.uint8)
    return codes.view(getattr(torch, dtype))


def scales(*shape: int) -> Any:
    import torch

    torch.manual_seed(2)
    return torch.rand(shape) * 0.1 + 1e-4


def read(path: Path, tensors: dict[str, Any], config: dict[str, Any]) -> dict[str, Source]:
    from safetensors.torch import save_file

    save_file(tensors, path / "model.safetensors")
    return unscaled(read_all([("model.safetensors", path / "model.safetensors")]), config)


def same(found: Source, expected: Any) -> bool:
    """Whether the bytes are those of torch's BF16, or both are no number."""
    import torch

    made = torch.frombuffer(bytearray(b"".join(found.chunks())), dtype=torch.bfloat16).view(expected.shape)
    rounded = expected.to(torch.bfloat16)
    nan = torch.isnan(rounded)
    return bool((torch.isnan(made) == nan).all() and (made[~nan] == rounded[~nan]).all())


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize(
    ("ending", "shape", "config"),
    [
        ("_scale_inv", (3, 3), BLOCKS),
        ("_scale", (ROWS, 1), {"quant_method": "compressed-tensors"}),
        ("_scale", (ROWS,), {"quant_method": "compressed-tensors"}),
        ("_scale", (), {"quant_method": "modelopt"}),
        ("_scale", (1,), {}),
    ],
)
def test_products_with_scales(
    tmp_path: Path, dtype: str, ending: str, shape: tuple[int, ...], config: dict[str, Any]
) -> None:
    import torch

    codes, factors = matrix(dtype), scales(*shape)
    tensors = {"a.weight": codes, f"a.weight{ending}": factors, "a.input_scale": scales(1)}
    found = read(tmp_path, {**tensors, "norm.weight": scales(4)}, config)
    assert found.keys() == {"a.weight", "norm.weight"}
    whole = factors
    if shape == (3, 3):
        whole = factors.repeat_interleave(32, 0).repeat_interleave(16, 1)[:ROWS, :COLUMNS]
    elif shape == (ROWS,):
        whole = factors[:, None]
    assert (found["a.weight"].dtype, found["a.weight"].shape) == ("BF16", (ROWS, COLUMNS))
    assert same(found["a.weight"], codes.float() * whole)
    part = b"".join(found["a.weight"].rows(31, 66))
    assert part == b"".join(found["a.weight"].chunks())[31 * COLUMNS * 2 : 66 * COLUMNS * 2]
    assert torch.isfinite(codes.float()).any()


@pytest.mark.parametrize(
    ("tensors", "config", "kind", "message"),
    [
        ({}, {}, FormatError, "'a.weight' has no scale of its own"),
        ({"a.weight_scale": (2, 3)}, {}, FormatError, r"the shape \(2, 3\), which does not fit 70 × 45"),
        ({"a.weight_scale_inv": (2, 3)}, BLOCKS, FormatError, "does not fit"),
        ({"a.weight_scale": ()}, {"quant_method": "gptq"}, UnsupportedModel, "quantized by 'gptq' are not"),
    ],
)
def test_scales_that_make_no_sense(
    tmp_path: Path,
    tensors: dict[str, tuple[int, ...]],
    config: dict[str, Any],
    kind: type[PunaError],
    message: str,
) -> None:
    given = {"a.weight": matrix()} | {name: scales(*shape) for name, shape in tensors.items()}
    with pytest.raises(kind, match=message):
        read(tmp_path, given, config)

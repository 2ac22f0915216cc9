"""Attention in pieces against torch's own in one piece."""

import pytest
import torch
from torch import Tensor, nn

from models.rebuilt.attention import native_multi_head_attention, transformer_encoder_layer_fwd

BATCH, LENGTH, CHANNELS, HEADS = 3, 5, 8, 2
HIDDEN = torch.zeros(LENGTH, LENGTH, dtype=torch.bool).index_fill(1, torch.tensor([4]), True)
MASKS = [
    pytest.param(None, None, id="no mask"),
    pytest.param(HIDDEN, 0, id="of attention"),
    pytest.param(torch.arange(LENGTH).expand(BATCH, -1) > 3, 1, id="of keys"),
    pytest.param(HIDDEN.expand(BATCH, HEADS, -1, -1), 2, id="of both"),
]


def layer(**options: bool) -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    made = nn.TransformerEncoderLayer(CHANNELS, HEADS, 16, batch_first=True, **options)  # type: ignore[arg-type]
    return made.eval().requires_grad_(False)


def images() -> Tensor:
    return torch.rand((BATCH, LENGTH, CHANNELS), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("mask", "mask_type"), MASKS)
def test_attention_is_torchs_own_and_has_a_gradient(mask: Tensor | None, mask_type: int | None) -> None:
    of, x = layer().self_attn, images()
    weights = (of.in_proj_weight, of.in_proj_bias, of.out_proj.weight, of.out_proj.bias)
    given = (CHANNELS, HEADS, *weights, mask, True, True, mask_type)
    expected, shares = torch._native_multi_head_attention(x, x, x, *given)
    x.requires_grad_()
    found, own_shares = native_multi_head_attention(x, x, x, *given)
    torch.testing.assert_close(found.detach(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(own_shares.detach(), shares, atol=1e-6, rtol=1e-5)
    found.sum().backward()
    assert x.grad is not None and bool((x.grad != 0).any())


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("use_gelu", [False, True])
def test_an_encoder_layer_is_torchs_own(norm_first: bool, use_gelu: bool) -> None:
    of = layer(norm_first=norm_first)
    x, attention = images(), of.self_attn
    given = (
        *(CHANNELS, HEADS, attention.in_proj_weight, attention.in_proj_bias),
        *(attention.out_proj.weight, attention.out_proj.bias, use_gelu, norm_first, of.norm1.eps),
        *(of.norm1.weight, of.norm1.bias, of.norm2.weight, of.norm2.bias),
        *(of.linear1.weight, of.linear1.bias, of.linear2.weight, of.linear2.bias),
    )
    expected = torch._transformer_encoder_layer_fwd(x, *given)
    torch.testing.assert_close(transformer_encoder_layer_fwd(x, *given), expected, atol=1e-5, rtol=1e-5)

"""What torch computes in one piece while nobody takes gradients, in pieces that have them.

    B sequences   L length   E channels

A module of torch's own asks whether anybody wants gradients, and takes these two operators where nobody does: so they
are what a network computes in use. The operators have no derivative; what is computed here is the same and has one.
"""

from torch import Tensor
from torch.nn import functional

# How the operators are told what a mask is of: keys by queries, keys of each sequence, or both.
OF_ATTENTION, OF_KEYS = 0, 1


def native_multi_head_attention(
    query_BLE: Tensor,
    key_BLE: Tensor,
    value_BLE: Tensor,
    channels: int,
    heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor]:
    """aten::_native_multi_head_attention: what came of the values, and the weights or, unless asked for, nothing."""
    of_keys = mask if mask_type == OF_KEYS else None
    of_attention = mask if mask_type != OF_KEYS else None
    if of_attention is not None and of_attention.dim() == 4:  # of each sequence and head
        of_attention = of_attention.expand(len(query_BLE), heads, -1, -1).flatten(0, 1)
    found, weights = functional.multi_head_attention_forward(
        query_BLE.transpose(0, 1),
        key_BLE.transpose(0, 1),
        value_BLE.transpose(0, 1),
        channels,
        heads,
        qkv_weight,
        qkv_bias,
        None,
        None,
        False,
        0.0,
        proj_weight,
        proj_bias,
        training=False,
        key_padding_mask=of_keys,
        need_weights=need_weights,
        attn_mask=of_attention,
        average_attn_weights=average_attn_weights,
    )
    return found.transpose(0, 1), query_BLE.new_empty(0) if weights is None else weights


def transformer_encoder_layer_fwd(
    src_BLE: Tensor,
    channels: int,
    heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """aten::_transformer_encoder_layer_fwd: attention and a perceptron, each added to what comes in."""

    def attended(x: Tensor) -> Tensor:
        weights = (qkv_weight, qkv_bias, proj_weight, proj_bias)
        return native_multi_head_attention(x, x, x, channels, heads, *weights, mask, False, True, mask_type)[0]

    def fed_forward(x: Tensor) -> Tensor:
        bent = functional.linear(x, ffn_weight_1, ffn_bias_1)
        bent = functional.gelu(bent) if use_gelu else functional.relu(bent)
        return functional.linear(bent, ffn_weight_2, ffn_bias_2)

    def first(x: Tensor) -> Tensor:
        return functional.layer_norm(x, (channels,), norm_weight_1, norm_bias_1, eps)

    def second(x: Tensor) -> Tensor:
        return functional.layer_norm(x, (channels,), norm_weight_2, norm_bias_2, eps)

    if norm_first:
        between = src_BLE + attended(first(src_BLE))
        return between + fed_forward(second(between))
    between = first(src_BLE + attended(src_BLE))
    return second(between + fed_forward(between))

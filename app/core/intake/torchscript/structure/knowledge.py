"""Operators of torch by what they do to what is known of a value; those in no table make new numbers of all they get.

An operator that is missing in a table costs a finding that is none, never the other way round: what is special here is
what may be left out of account.
"""


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten::{name}" for name in names.split())


COMPARISONS = _aten("eq ne lt le gt ge")

# Their result jumps, or stays the same while the input moves: no gradient tells of it.
STEPS = COMPARISONS | _aten(
    "equal is_nonzero sign round floor ceil trunc frac floor_divide floordiv remainder fmod isnan isinf isfinite "
    "logical_and logical_not logical_or logical_xor bitwise_and bitwise_not bitwise_or bitwise_xor __and__ __or__ "
    "__xor__ any all count_nonzero argmax argmin argsort one_hot hardshrink Int IntImplicit Bool __contains__"
)
WHOLE = STEPS - _aten("sign round floor ceil trunc frac floor_divide floordiv remainder fmod hardshrink")

# Their second result says where the first was found.
WITH_PLACES = _aten(
    "max min median sort topk max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
)

# The number in a tensor, or a copy of it, of which autograd knows nothing.
NUMBERS = _aten("item Float FloatImplicit ScalarImplicit") | {"prim::tolist"}
DETACHES = _aten("detach") | {"prim::data"}

RANDOM = _aten("rand rand_like randn randn_like randint normal uniform bernoulli")
# Where the argument stands that makes them random.
TRAINING_ARGUMENT = {
    **dict.fromkeys(_aten("dropout feature_dropout alpha_dropout feature_alpha_dropout"), (2, "train")),
    "aten::rrelu": (3, "training"),
    "aten::scaled_dot_product_attention": (4, "dropout_p"),
}

# The result shows the very numbers of the first argument.
VIEWS = _aten(
    "view view_as reshape reshape_as select slice narrow transpose permute flatten unflatten unsqueeze squeeze expand "
    "expand_as broadcast_to broadcast_tensors diagonal t numpy_T mT swapaxes swapdims movedim moveaxis unbind chunk "
    "split split_with_sizes tensor_split unfold ravel detach to type_as as_tensor dropout feature_dropout "
    "alpha_dropout feature_alpha_dropout meshgrid"
) | {"prim::data"}
# The result is the first argument, perhaps elsewhere in memory.
SAME = _aten("contiguous cpu cuda alias lift_fresh _unwrap_optional") | {"prim::unchecked_unwrap_optional"}

# They take numbers for sizes alone, which say nothing of the numbers in the result.
TAKES_SIZES = _aten(
    "view reshape expand broadcast_to flatten unflatten split split_with_sizes chunk tensor_split zeros ones empty "
    "new_zeros new_ones new_empty zeros_like ones_like empty_like rand randn repeat tile pad constant_pad_nd "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d avg_pool2d max_pool2d "
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_linear1d to type_as "
    "unfold im2col col2im affine_grid_generator eye permute"
)
PLACING = ("dtype", "device", "layout", "memory_format", "pin_memory")  # keywords that do not change numbers

FACTORIES = _aten("zeros ones empty full rand randn randint normal arange linspace eye")
LIKE = _aten("zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full")
MAKES_TENSORS = FACTORIES | LIKE | _aten("tensor as_tensor scalar_tensor")
# Where they are told how large the result is to be.
SIZES_ARGUMENT = {
    **dict.fromkeys(_aten("zeros ones empty full rand randn arange eye"), 0),
    **dict.fromkeys(_aten("new_zeros new_ones new_empty new_full repeat tile upsample_nearest2d"), 1),
    **dict.fromkeys(_aten("upsample_bilinear2d upsample_bicubic2d adaptive_avg_pool2d adaptive_max_pool2d"), 1),
    **dict.fromkeys(_aten("expand randint"), 1),
}

# What is asked of the surroundings, not of the image.
OF_GRADIENTS = _aten("is_grad_enabled") | {"prim::requires_grad"}
OF_PLACE = (
    _aten("is_autocast_enabled is_contiguous storage_offset stride is_floating_point")
    | {f"prim::{name}" for name in ("device", "type", "layout", "is_cpu", "is_cuda", "is_mkldnn", "is_nested")}
    | {"prim::is_quantized", "prim::is_sparse"}
)

# The weights that torch's fused attention takes, by the same names as its parts do; it computes what they compute.
FUSED = _aten("_native_multi_head_attention _transformer_encoder_layer_fwd")

# Results have as many dimensions as the first tensor, each of the same origin.
KEEPS_DIMS = STEPS - _aten("equal any all count_nonzero argmax argmin one_hot Int IntImplicit Bool") | _aten(
    "relu relu6 gelu silu mish elu selu celu leaky_relu hardswish hardsigmoid hardtanh sigmoid tanh softplus "
    "log_sigmoid prelu rrelu threshold softmax log_softmax dropout feature_dropout alpha_dropout "
    "feature_alpha_dropout batch_norm group_norm instance_norm layer_norm rms_norm clamp clamp_min clamp_max clip abs "
    "neg exp log sqrt rsqrt square sin cos erf reciprocal to type_as detach clone contiguous fill zero copy roll flip "
    "masked_fill zeros_like ones_like empty_like rand_like randn_like cumsum sort nan_to_num pow "
    "native_batch_norm lift_fresh alias bernoulli uniform normal softshrink logit expm1 log1p log2 log10 tril triu"
)
BROADCASTS = COMPARISONS | _aten("add sub mul div where maximum minimum rsub true_divide multiply lerp addcmul addcdiv")
POOLS = _aten(
    "conv1d conv2d conv3d _convolution _convolution_mode convolution conv_transpose1d conv_transpose2d "
    "conv_transpose3d max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_linear1d pad "
    "constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa _upsample_nearest_exact2d max_pool2d_with_indices _pad_circular"
)
CHANGES_LISTS = _aten("append extend add_ _set_item pop insert clear reverse Delete sort")
REDUCES = _aten("mean sum amax amin std var prod logsumexp linalg_vector_norm norm max min median")
# What the result's size depends on, is also which numbers they are given.
SIZED_BY_NUMBERS = _aten("masked_select index repeat_interleave one_hot")

# What batch norm, dropout and their like do in training.
IN_TRAINING = (
    _aten(
        "add add_ sub mul mul_ div div_ Float Int size dim len append __is__ __isnot__ __not__ eq ne lt gt le ge empty "
        "new_empty dropout dropout_ feature_dropout format warn"
    )
    | {f"{name}{ending}" for name in RANDOM for ending in ("", "_")}
    | {"prim::RaiseException", "prim::dtype", "prim::device", "prim::layout"}
)

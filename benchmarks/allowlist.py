"""Makes the gate's allowlist of operators: those that benign archives use, and a reviewed list of their relatives.

    python -m benchmarks.allowlist FOLDER

FOLDER holds TorchScript archives that are known to be benign, such as torchvision's architectures, scripted and traced.
What they use must pass the same review as the list below: an operator answers with new numbers, or changes those it is
given; it reaches no file, no process, no other machine, no state that outlives the call (drawing random numbers and
giving a warning are the exceptions that ordinary networks need), and no memory outside its arguments.
"""

import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from app.core.intake.torchscript.code import operators
from app.core.intake.torchscript.code.syntax import read_program

ALLOWLIST = Path(operators.__file__).with_name("allowlist.txt")
HEADER = """\
# The operators of torch that a scanned model may use, one a line; see operators.py for what the others are told.
# Made by `python -m benchmarks.allowlist FOLDER` from {archives} benign archives, which use {used} operators, and from
# the reviewed list in that file, which adds {added}. Do not edit: change the list there, and make it again.
"""

# Functions whose last underscore says that they change their argument in place stand once, with "_?".
REVIEWED = """
layers
    linear bilinear embedding conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    _convolution _convolution_mode scaled_dot_product_attention _native_multi_head_attention
    _transformer_encoder_layer_fwd channel_shuffle native_channel_shuffle pixel_shuffle pixel_unshuffle im2col col2im
activations
    celu_? elu_? gelu_? glu hardshrink hardsigmoid_? hardswish_? hardtanh_? leaky_relu_? log_sigmoid log_softmax mish_?
    prelu _prelu_kernel relu_? relu6_? rrelu_? selu_? sigmoid_? silu_? softmax softplus softshrink tanh_? threshold_?
norms
    batch_norm native_batch_norm group_norm instance_norm layer_norm rms_norm norm frobenius_norm linalg_vector_norm
    cosine_similarity pairwise_distance _weight_norm
pools
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool1d_with_indices max_pool2d
    max_pool2d_with_indices max_pool3d max_pool3d_with_indices
resampling and padding
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d
    upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_lanczos2d_aa grid_sampler affine_grid_generator
    pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d _pad_circular _pad_enum
dropout and random numbers
    dropout_? alpha_dropout_? feature_dropout_? feature_alpha_dropout_? bernoulli_? rand rand_like randn randn_like
    randint normal_? uniform_?
elementwise
    abs_? acos add_? addcdiv_? addcmul_? asin atan atan2 ceil_? clamp_? clamp_max_? clamp_min_? clip_? cos cosh div_?
    erf exp_? exp2 expm1 floor_? floor_divide_? fmod frac lerp log_? log10 log1p log2 logit maximum minimum mul_?
    multiply nan_to_num_? neg_? negative pow_? reciprocal_? remainder_? round_? rsqrt_? rsub sign sin sinh sqrt_?
    square_? sub_? tan true_divide trunc where bitwise_and bitwise_not bitwise_or bitwise_xor logical_and logical_not
    logical_or logical_xor eq equal ge gt le lt ne isfinite isinf isnan
reductions
    all amax amin any argmax argmin argsort cumprod cumsum count_nonzero logsumexp max mean median min prod sort std
    std_mean sum topk var var_mean
products
    addbmm addmm baddbmm bmm dot einsum matmul mm mv outer tensordot addmv
shapes and parts
    alias broadcast_tensors broadcast_to cat chunk clone concat contiguous detach_? diag diagonal expand expand_as
    fill_ fill_diagonal_ flatten flip gather hstack index index_add index_fill index_put_? index_select lift_fresh
    masked_fill_? masked_select meshgrid moveaxis movedim mT narrow numpy_T permute ravel repeat repeat_interleave
    reshape reshape_as roll rot90 scatter_? scatter_add_? select slice split split_with_sizes squeeze_? stack swapaxes
    swapdims t tensor_split tile transpose_? tril triu unbind unflatten unfold unsqueeze_? view view_as vstack zero_
new tensors and casts
    arange as_tensor copy_ cpu cuda empty empty_like eye full full_like linspace new_empty new_full new_ones new_zeros
    one_hot ones ones_like scalar_tensor tensor to type_as zeros zeros_like _shape_as_tensor
questions
    device dim is_autocast_enabled is_contiguous is_floating_point is_grad_enabled is_nonzero item numel size stride
    storage_offset
numbers, lists, dictionaries and texts
    Bool Delete Float FloatImplicit Int IntImplicit ScalarImplicit __and__ __contains__ __derive_index __getitem__
    __is__ __isnot__ __not__ __or__ __range_length __xor__ _set_item _unwrap_optional append clear copy count endswith
    extend find floordiv format get insert items join keys len list lower percentFormat pop replace reverse sorted
    startswith str strip upper values warn
of prim
    prim::NumToTensor prim::Print prim::RaiseException prim::abs prim::data prim::device prim::dtype prim::is_cpu
    prim::is_cuda prim::is_mkldnn prim::is_nested prim::is_quantized prim::is_sparse prim::layout prim::max prim::min
    prim::requires_grad prim::tolist prim::type prim::unchecked_unwrap_optional
"""


def main() -> None:
    archives = sorted(Path(sys.argv[1]).glob("*.pt"))
    used = {name for archive in archives for name in operators_used(archive)}
    dangerous = sorted(name for name in used if operators.is_forbidden(name))
    if dangerous or not archives:
        sys.exit(f"{len(archives)} archives, and these operators in them are forbidden: {dangerous}")
    names = used | reviewed()
    header = HEADER.format(archives=len(archives), used=len(used), added=len(names) - len(used))
    ALLOWLIST.write_text(header + "".join(f"{name}\n" for name in sorted(names)), "ascii")
    print(f"{len(names)} operators, {len(used)} of them used by {len(archives)} archives")
    print("used, but not reviewed:", *sorted(used - reviewed()))


def operators_used(archive: Path) -> Iterable[str]:
    with zipfile.ZipFile(archive) as members:
        code = [name for name in members.namelist() if name.endswith(".py")]
        program = read_program((name.partition("/")[2], members.read(name).decode()) for name in code)
    return (use.name for _, use in operators.operators_of(program))


def reviewed() -> set[str]:
    """The names of REVIEWED; its lines without indentation are headings."""
    words = " ".join(line for line in REVIEWED.splitlines() if line.startswith(" ")).split()
    names = {word if "::" in word else f"aten::{word}" for word in words}
    in_place = {name for name in names if name.endswith("_?")}
    return (names - in_place) | {name.removesuffix("_?") for name in in_place} | {name[:-1] for name in in_place}


if __name__ == "__main__":
    main()

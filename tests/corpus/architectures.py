"""One net of every family of torchvision's classifiers, with ten labels and random weights.

Where torchvision's own net would weigh hundreds of megabytes, its widths are made smaller and its depth, its blocks and
its forward stay; such a net is called narrow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig
from torchvision.models.maxvit import MaxVit
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)
from torchvision.models.vision_transformer import VisionTransformer

from tests.corpus.nets import LABELS


@dataclass(frozen=True)
class Architecture:
    """A net of torchvision's, and the side of the square images that it is tried with."""

    build: Callable[[], nn.Module]
    side: int


def alexnet_narrow() -> nn.Module:
    net = models.alexnet()
    net.classifier = _narrow_classifier(256 * 6 * 6)
    return net


def vgg11_bn_narrow() -> nn.Module:
    net = models.vgg11_bn()
    net.classifier = _narrow_classifier(512 * 7 * 7)
    return net


def _narrow_classifier(inputs: int) -> nn.Sequential:
    hidden = nn.Linear(inputs, 64)
    return nn.Sequential(nn.Dropout(), hidden, nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(64, LABELS))


def efficientnet_v2_narrow() -> nn.Module:
    blocks = [
        FusedMBConvConfig(1, 3, 1, 16, 16, 2),
        FusedMBConvConfig(4, 3, 2, 16, 24, 2),
        MBConvConfig(4, 3, 2, 24, 32, 2),
        MBConvConfig(6, 3, 1, 32, 48, 2),
        MBConvConfig(6, 3, 2, 48, 64, 2),
    ]
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    return EfficientNet(blocks, dropout=0.2, last_channel=256, num_classes=LABELS, norm_layer=norm)


def convnext_tiny_narrow() -> nn.Module:
    widths = (16, 32, 64, 128, None)
    blocks = [CNBlockConfig(widths[stage], widths[stage + 1], depth) for stage, depth in enumerate((3, 3, 9, 3))]
    return ConvNeXt(blocks, layer_scale=0.5, num_classes=LABELS)  # torchvision's 1e-6 would switch the blocks off


def swin_t_narrow() -> nn.Module:
    return SwinTransformer(
        patch_size=[4, 4],
        embed_dim=24,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=[7, 7],
        num_classes=LABELS,
    )


def swin_v2_t_narrow() -> nn.Module:
    return SwinTransformer(
        patch_size=[4, 4],
        embed_dim=24,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=[8, 8],
        num_classes=LABELS,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )


def maxvit_t_narrow() -> nn.Module:
    return MaxVit(
        input_size=(64, 64),
        stem_channels=16,
        partition_size=2,
        block_channels=[16, 32, 64, 128],
        block_layers=[2, 2, 5, 2],
        head_dim=8,
        stochastic_depth_prob=0.2,
        num_classes=LABELS,
    )


def _named(name: str, **arguments: object) -> Callable[[], nn.Module]:
    return partial(getattr(models, name), num_classes=LABELS, **arguments)


ARCHITECTURES = {
    "alexnet_narrow": Architecture(alexnet_narrow, 96),
    "vgg11_bn_narrow": Architecture(vgg11_bn_narrow, 64),
    "resnet18": Architecture(_named("resnet18"), 64),
    "resnext_narrow": Architecture(
        partial(ResNet, Bottleneck, [1, 1, 1, 1], num_classes=LABELS, groups=8, width_per_group=4), 64
    ),
    "wide_resnet_narrow": Architecture(
        partial(ResNet, Bottleneck, [1, 1, 1, 1], num_classes=LABELS, width_per_group=96), 64
    ),
    "squeezenet1_1": Architecture(_named("squeezenet1_1"), 64),
    "densenet121": Architecture(_named("densenet121"), 64),
    "googlenet": Architecture(_named("googlenet", init_weights=False, transform_input=True), 96),
    "inception_v3": Architecture(_named("inception_v3", init_weights=False), 96),
    "mobilenet_v2": Architecture(_named("mobilenet_v2"), 64),
    "mobilenet_v3_small": Architecture(_named("mobilenet_v3_small"), 64),
    "shufflenet_v2_x0_5": Architecture(_named("shufflenet_v2_x0_5"), 64),
    "mnasnet0_5": Architecture(_named("mnasnet0_5"), 64),
    "efficientnet_b0": Architecture(_named("efficientnet_b0"), 64),
    "efficientnet_v2_narrow": Architecture(efficientnet_v2_narrow, 64),
    "regnet_y_400mf": Architecture(_named("regnet_y_400mf"), 64),
    "regnet_x_400mf": Architecture(_named("regnet_x_400mf"), 64),
    "convnext_tiny_narrow": Architecture(convnext_tiny_narrow, 64),
    "vit_b_16_narrow": Architecture(
        partial(VisionTransformer, 64, 16, 12, 3, hidden_dim=48, mlp_dim=192, num_classes=LABELS), 64
    ),
    "swin_t_narrow": Architecture(swin_t_narrow, 96),
    "swin_v2_t_narrow": Architecture(swin_v2_t_narrow, 96),
    "maxvit_t_narrow": Architecture(maxvit_t_narrow, 64),
}

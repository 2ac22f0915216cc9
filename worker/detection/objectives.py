"""What a trigger generator minimises: reach the label (eq. 2) and leave the image as it was (eq. 3).

    N image batch   C channels   H, W pixels   K labels

All losses are per image, shape [N]; whoever optimises takes the mean.
"""

from torch import Tensor
from torch.nn import functional

from app.core.config import InversionConfig
from models.perceptual import PerceptualDistance


def attack_loss(logits_NK: Tensor, targets_N: Tensor, config: InversionConfig) -> Tensor:
    """L_atk = lambda 1 * CE(f(G(x)), t), eq. (2)."""
    return config.lambda_attack * functional.cross_entropy(logits_NK, targets_N, reduction="none")


def reconstruction_loss(
    images_NCHW: Tensor,
    generated_NCHW: Tensor,
    clean_features: list[Tensor],
    perceptual: PerceptualDistance,
    config: InversionConfig,
) -> Tensor:
    """L_rec = lambda 2 * MSE(x, G(x)) + lambda 3 * LPIPS(x, G(x)), eq. (3).

    `clean_features` are `perceptual.features(images_NCHW)`, which never change and are computed once per scan.
    """
    mse_N = (generated_NCHW - images_NCHW).square().mean((1, 2, 3))
    lpips_N = perceptual.distance(clean_features, perceptual.features(generated_NCHW))
    return config.lambda_mse * mse_N + config.lambda_perceptual * lpips_N

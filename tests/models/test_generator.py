"""The trigger generator: it gives back its input where it should, at any size, and lets gradients pass."""

import pytest
import torch

from models.generator import TriggerGenerator

SIZES = [(28, 28), (32, 32), (17, 23), (1, 1), (224, 40)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_residual_generator_starts_as_the_exact_identity_at_any_size(height: int, width: int, channels: int) -> None:
    images = torch.rand(2, channels, height, width)
    assert torch.equal(TriggerGenerator(channels, 8, 3, "residual")(images), images)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_a_trained_start_gives_images_of_the_same_size_within_bounds(height: int, width: int, levels: int) -> None:
    images = torch.rand(2, 3, height, width)
    with torch.no_grad():
        generated = TriggerGenerator(3, 4, levels, "trained")(images)
    assert generated.shape == images.shape
    assert generated.min() >= 0 and generated.max() <= 1


@pytest.mark.parametrize("start", ["trained", "residual"])
def test_every_parameter_learns_within_two_steps(start: str) -> None:
    """The residual start's last layer is zero, so what lies below it learns from the second step on."""
    torch.manual_seed(0)
    generator = TriggerGenerator(1, 4, 2, start)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(generator.parameters(), 0.1)
    images = torch.rand(4, 1, 16, 16)
    for _ in range(2):
        optimizer.zero_grad()
        (generator(images) - 0.3).square().sum().backward()
        optimizer.step()
    silent = [name for name, p in generator.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert silent == []


def test_a_pixel_that_was_pushed_out_of_range_still_gets_a_gradient() -> None:
    generator = TriggerGenerator(1, 4, 1, "residual")
    torch.nn.init.constant_(generator.last.bias, 5.0)
    generated = generator(torch.rand(1, 1, 8, 8))
    assert (generated == 1).all()
    generated.sum().backward()
    assert generator.last.bias.grad is not None and (generator.last.bias.grad > 0).all()


def test_an_image_is_changed_the_same_alone_and_in_company() -> None:
    torch.manual_seed(0)
    generator, images = TriggerGenerator(1, 8, 2, "trained").train(), torch.rand(5, 1, 16, 16)
    torch.testing.assert_close(generator(images)[2:3], generator(images[2:3]))
    torch.testing.assert_close(generator.eval()(images), generator.train()(images))

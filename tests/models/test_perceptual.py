"""The perceptual distance: genuine LPIPS to the digit where its weights are at hand, and the packaged net's manners.

N images   C channel   H, W pixels
"""

import hashlib
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from app.core.errors import Refusal
from benchmarks.datasets import REPOSITORY, packed_folder
from models import perceptual
from models.perceptual import PACKAGED, PerceptualDistance, fetch_backbone, find_backbone, load_perceptual

GENUINE = ("alexnet", "squeezenet1_1")
LPIPS_NAMES = {"alexnet": "alex", "squeezenet1_1": "squeeze"}


@pytest.fixture(autouse=True)
def no_network_and_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty hub cache, and sockets that fail."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.fixture(params=["packaged", *GENUINE])
def net(request: pytest.FixtureRequest) -> PerceptualDistance:
    return load_perceptual(PACKAGED if request.param == "packaged" else genuine_weights(request.param))


@pytest.fixture
def packaged() -> PerceptualDistance:
    return load_perceptual()


def genuine_weights(name: str) -> Path:
    return packed_path(f"weights/{name}-features.pth")


def packed_path(name: str) -> Path:
    folder = packed_folder()
    if folder is None or not (folder / name).is_file():
        pytest.skip(f"{name} is not here")
    return folder / name


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def example(name: str) -> Tensor:
    pixels = np.array(Image.open(packed_path(f"lpips_example/{name}.png")).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(("name", "far", "near"), [("alexnet", 0.722, 0.138), ("squeezenet1_1", 0.711, 0.148)])
def test_published_example_patches_have_their_published_distances(name: str, far: float, near: float) -> None:
    net, reference = load_perceptual(genuine_weights(name)), example("ex_ref")
    assert net(reference, example("ex_p0")).item() == pytest.approx(far, abs=5e-4)
    assert net(reference, example("ex_p1")).item() == pytest.approx(near, abs=5e-4)


@pytest.mark.parametrize("name", GENUINE)
@pytest.mark.parametrize("side", [32, 45, 64])
def test_genuine_nets_agree_with_the_lpips_package(name: str, side: int) -> None:
    lpips = pytest.importorskip("lpips")
    weights = torch.load(genuine_weights(name), weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about an argument that lpips gives it
        theirs = lpips.LPIPS(net=LPIPS_NAMES[name], pnet_rand=True, verbose=False)
    theirs.net.load_state_dict({key: weights[f"features.{key.split('.', 1)[1]}"] for key in theirs.net.state_dict()})
    a_NCHW = random_images(4, 3, side, side)
    b_NCHW = (a_NCHW + 0.2 * random_images(4, 3, side, side, seed=1)).clamp(0, 1)
    ours = load_perceptual(genuine_weights(name))(a_NCHW, b_NCHW)
    torch.testing.assert_close(ours, theirs(a_NCHW, b_NCHW, normalize=True).flatten(), rtol=1e-4, atol=1e-6)


def test_a_whole_torchvision_checkpoint_is_recognised_by_its_features(tmp_path: Path) -> None:
    state = torch.load(genuine_weights("squeezenet1_1"), weights_only=True)
    torch.save(state | {"classifier.1.weight": torch.zeros(1000, 512, 1, 1)}, tmp_path / "mine.pth")
    assert load_perceptual(tmp_path / "mine.pth").name == "squeezenet1_1"


def test_hub_cache_is_preferred_to_the_packaged_net_and_alexnet_to_squeezenet() -> None:
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    cache.mkdir(parents=True)
    assert find_backbone().source == "packaged"
    for name, cached in (("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"), ("alexnet", "alexnet-owt-7be5be79.pth")):
        (cache / cached).symlink_to(genuine_weights(name).resolve())
        assert find_backbone().name == load_perceptual().name == name
        assert find_backbone().source == "torch hub cache"
    assert load_perceptual(PACKAGED).name == "packaged"  # a configured path wins


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 neither"])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.pth").write_bytes(content)
    with pytest.raises(Refusal) as refusal:
        load_perceptual(tmp_path / "odd.pth")
    assert refusal.value.problem.code == "perceptual_weights_unreadable"


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "vgg.pth")
    with pytest.raises(Refusal) as refusal:
        find_backbone(tmp_path / "vgg.pth")
    assert refusal.value.problem.code == "perceptual_weights_unknown"


def test_a_failed_download_is_a_refusal_that_leaves_nothing_behind() -> None:
    with pytest.raises(Refusal) as refusal:
        fetch_backbone()
    assert refusal.value.problem.code == "download_failed"
    assert refusal.value.problem.retryable
    assert not list((Path(torch.hub.get_dir()) / "checkpoints").iterdir())
    assert find_backbone().name == "packaged"


def test_a_download_with_the_wrong_hash_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "alexnet-owt-00000000.pth").write_bytes(b"something else")
    with pytest.raises(Refusal):
        fetch_backbone((tmp_path / "alexnet-owt-00000000.pth").as_uri())
    assert not list((Path(torch.hub.get_dir()) / "checkpoints").iterdir())


def test_a_download_with_the_right_hash_is_put_into_the_hub_cache(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    (tmp_path / f"alexnet-owt-{digest}.pth").write_bytes(b"weights")
    assert fetch_backbone((tmp_path / f"alexnet-owt-{digest}.pth").as_uri()).read_bytes() == b"weights"


def test_loading_imports_neither_lpips_nor_torchvision_and_prints_nothing() -> None:
    code = (
        "import sys; from models.perceptual import load_perceptual, PACKAGED; load_perceptual(PACKAGED);"
        "sys.exit(any(name in sys.modules for name in ('lpips', 'torchvision')))"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, check=False)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, b"", b"")


def test_loading_draws_no_random_numbers(packaged: PerceptualDistance) -> None:
    before = torch.get_rng_state()
    load_perceptual(PACKAGED)
    assert torch.equal(before, torch.get_rng_state())


def test_packaged_file_is_small_and_named_by_its_hash(packaged: PerceptualDistance) -> None:
    assert PACKAGED.stat().st_size <= 4_000_000
    assert packaged.sha256 == hashlib.sha256(PACKAGED.read_bytes()).hexdigest()
    assert packaged.sha256 in (PACKAGED.parent / "README.md").read_text()


def test_distance_is_zero_for_equal_images_and_symmetric_and_positive_otherwise(net: PerceptualDistance) -> None:
    a_NCHW, b_NCHW = random_images(5, 3, 32, 32), random_images(5, 3, 32, 32, seed=1)
    assert torch.equal(net(a_NCHW, a_NCHW), torch.zeros(5))
    assert torch.equal(net(a_NCHW, b_NCHW), net(b_NCHW, a_NCHW))
    assert (net(a_NCHW, b_NCHW) > 0).all()


def test_more_noise_is_farther_away(net: PerceptualDistance) -> None:
    smooth_NCHW = torch.nn.functional.interpolate(random_images(8, 3, 4, 4), size=(32, 32), mode="bilinear")
    noise_NCHW = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    distances = torch.stack([net(smooth_NCHW, smooth_NCHW + s * noise_NCHW) for s in (0.003, 0.01, 0.03, 0.1, 0.3)])
    assert (distances.diff(dim=0) > 0).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_are_finite_on_plain_images(net: PerceptualDistance, value: float) -> None:
    plain_NCHW = torch.full((2, 1, 28, 28), value)
    for start_NCHW in (plain_NCHW, plain_NCHW + 1e-4 * random_images(2, 1, 28, 28)):
        changed_NCHW = start_NCHW.clone().requires_grad_()
        net(changed_NCHW, plain_NCHW).sum().backward()
        assert changed_NCHW.grad is not None
        assert changed_NCHW.grad.isfinite().all()


def test_features_of_all_zero_maps_have_a_gradient(packaged: PerceptualDistance) -> None:
    with torch.no_grad():
        for bias in (value for name, value in packaged.named_parameters() if name.endswith("bias")):
            bias.fill_(-100.0)  # every ReLU is shut
    images_NCHW = random_images(1, 3, 32, 32).requires_grad_()
    packaged(images_NCHW, random_images(1, 3, 32, 32, seed=1)).sum().backward()
    assert images_NCHW.grad is not None
    assert images_NCHW.grad.isfinite().all()


def test_gradients_reach_the_images_and_no_weight(net: PerceptualDistance) -> None:
    images_NCHW = random_images(2, 3, 32, 32).requires_grad_()
    net(images_NCHW, random_images(2, 3, 32, 32, seed=1)).sum().backward()
    assert images_NCHW.grad is not None
    assert bool((images_NCHW.grad != 0).any())
    assert not any(weight.requires_grad for weight in net.parameters())
    assert not net.train().training


def test_a_grey_image_counts_as_three_equal_channels(net: PerceptualDistance) -> None:
    a_NCHW, b_NCHW = random_images(3, 1, 28, 28), random_images(3, 1, 28, 28, seed=1)
    assert torch.equal(net(a_NCHW, b_NCHW), net(a_NCHW.expand(-1, 3, -1, -1), b_NCHW.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (20, 50), (33, 31), (96, 64)])
def test_any_size_can_be_compared(net: PerceptualDistance, size: tuple[int, int]) -> None:
    distance_N = net(random_images(3, 3, *size), random_images(3, 3, *size, seed=1))
    assert distance_N.shape == (3,)
    assert (distance_N > 0).all()


def test_features_computed_once_give_the_same_distance(net: PerceptualDistance) -> None:
    a_NCHW, b_NCHW = random_images(4, 3, 32, 32), random_images(4, 3, 32, 32, seed=1)
    features = net.features(a_NCHW)
    assert torch.equal(net.distance(features, net.features(b_NCHW)), net(a_NCHW, b_NCHW))
    for maps_NCHW in features:
        torch.testing.assert_close(maps_NCHW.square().sum(1).amax(), torch.tensor(1.0))


def test_an_image_is_not_judged_by_its_neighbours_in_the_batch(net: PerceptualDistance) -> None:
    a_NCHW, b_NCHW = random_images(4, 3, 32, 32), random_images(4, 3, 32, 32, seed=1)
    alone = torch.cat([net(a_NCHW[i : i + 1], b_NCHW[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(net(a_NCHW, b_NCHW), alone)


def test_backbones_are_described_by_name_path_and_source() -> None:
    assert find_backbone() == perceptual.Backbone("packaged", PACKAGED, "packaged")
    assert find_backbone(PACKAGED).source == "configured"

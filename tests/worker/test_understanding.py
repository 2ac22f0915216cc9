"""What a scan takes for true of toys and of bundles that people would make for them: labels, pixels, and doubts."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from app.core.config import ScanConfig
from app.core.errors import Refusal
from app.core.findings import Caveat, Likeness, Preparation, Reason
from app.core.intake.declaration import DeclaredInput
from app.core.intake.notes import NoteKind
from app.core.jobs import JobDirectory
from app.local_scan import job_for
from tests.toys import QUICK, Particular, ToyNet, all_of, save_toy, save_toy_bundle, toy_images, toy_labels
from worker.engine.understanding import understand
from worker.engine.workbench import Workbench

LABELS = 12
NAMES = [f"class_{label + 1}" for label in range(LABELS)]  # of which `class_10` sorts before `class_2`


def save_folders(path: Path, folders: Sequence[str], labels: Sequence[int], per_label: int = 6) -> Path:
    """A .zip with a folder for each of these labels of a toy."""
    images = (toy_images(per_label, LABELS).clamp(0, 1) * 255).round().byte()[:, 0].numpy()
    of = toy_labels(per_label, LABELS).numpy()
    with zipfile.ZipFile(path, "w") as bundle:
        for folder, label in zip(folders, labels, strict=True):
            for place, image in enumerate(images[of == label]):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                bundle.writestr(f"{folder}/{place}.png", png.getvalue())
    return path


def understood(root: Path, net: nn.Module, bundle: Path, channels: int = 1, **said: Any) -> Preparation:
    directory = JobDirectory(root / "job")
    directory.root.mkdir(parents=True)
    model = save_toy(directory.model, net, channels=channels)
    (directory.root / f"bundle{bundle.suffix}").write_bytes(bundle.read_bytes())
    declared = DeclaredInput(**{"mean": (0.0,), "std": (1.0,), **said})
    job = job_for(model, bundle, config=ScanConfig(inversion=QUICK), input=declared, check=True)
    directory.write_job(job)
    preparation = understand(Workbench(directory, job, lambda event, **data: None))
    directory.write_preparation(preparation)
    assert directory.read_preparation() == preparation, "it comes back from its file as it was"
    return preparation


def test_the_order_in_which_names_sort_is_taken_where_the_answers_fit_it_and_is_said(tmp_path: Path) -> None:
    names = [f"class {chr(97 + label)}" for label in range(LABELS)]
    found = understood(tmp_path, ToyNet(LABELS), save_folders(tmp_path / "b.zip", names, range(LABELS)))
    assert (found.label_source, found.clean_accuracy, found.class_order) == ("sorted", 1.0, ())
    assert Caveat.ASSUMED_CLASS_ORDER in found.caveats and not found.doubts and not found.reasons
    assert found.label_names == tuple(names)


def test_text_order_that_the_model_was_not_trained_in_is_replaced_by_natural_order_and_said(tmp_path: Path) -> None:
    found = understood(tmp_path, ToyNet(LABELS), save_folders(tmp_path / "b.zip", NAMES, range(LABELS)))
    assert (found.label_source, found.class_order_cause, found.clean_accuracy) == ("inferred", "natural order", 1.0)
    assert found.label_names == tuple(NAMES) and not found.reasons
    assert found.suggested_classes == {name: label for label, name in enumerate(NAMES)}
    assert Caveat.INFERRED_CLASS_ORDER in found.caveats and Caveat.ASSUMED_CLASS_ORDER not in found.caveats
    [doubt] = found.doubts
    assert "natural order" in doubt and "`class_10` is output 9" in doubt and "bundle.json" in doubt


def test_labels_of_a_search_are_those_of_the_order_that_was_taken(tmp_path: Path) -> None:
    understood(tmp_path, ToyNet(LABELS), save_folders(tmp_path / "b.zip", NAMES, range(LABELS)))
    directory = JobDirectory(tmp_path / "job")
    bench = Workbench(directory, directory.read_job(), lambda event, **data: None)
    assert torch.equal(bench.classifier(all_of(bench.images)).argmax(1), bench.labels_N)


def test_fewer_folders_than_outputs_are_read_off_the_answers_and_never_numbered_silently(tmp_path: Path) -> None:
    meant = (3, 7, 8, 11)
    names = ["bird", "cat", "dog", "elk"]
    found = understood(tmp_path, ToyNet(LABELS), save_folders(tmp_path / "b.zip", names, meant))
    assert found.label_source == "inferred" and found.clean_accuracy == 1.0
    assert found.suggested_classes == dict(zip(names, meant, strict=True))
    assert [found.label_names[label] for label in meant] == names
    assert [label for label, images in enumerate(found.images_per_label) if images] == list(meant)
    assert {Caveat.INFERRED_CLASS_ORDER, Caveat.MISSING_CLASSES} <= set(found.caveats) and found.doubts


def test_fewer_folders_than_outputs_that_cannot_be_read_off_are_refused_with_what_to_write(tmp_path: Path) -> None:
    bundle = save_folders(tmp_path / "b.zip", ["bird", "cat", "dog"], (3, 7, 8), per_label=2)
    with pytest.raises(Refusal) as refused:
        understood(tmp_path, ToyNet(LABELS), bundle)
    assert refused.value.problem.code == "class_order_unknown" and '"classes"' in refused.value.problem.advice


def test_declared_classes_that_the_answers_contradict_stand_and_block_with_the_cause(tmp_path: Path) -> None:
    bundle = save_folders(tmp_path / "b.zip", NAMES, range(LABELS))
    as_text = {name: place for place, name in enumerate(sorted(NAMES))}
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("bundle.json", json.dumps({"classes": as_text}))
    found = understood(tmp_path, ToyNet(LABELS), bundle)
    assert (found.label_source, found.class_order) == ("declared", ())
    assert Reason.IMPLAUSIBLE_ACCURACY in found.reasons and (found.clean_accuracy or 0) < 0.5
    assert found.suggested_classes == {name: label for label, name in enumerate(NAMES)}
    assert "natural order" in found.doubts[0] and "100% of the images would be right" in found.doubts[0]


def test_labels_that_count_from_one_are_refused_by_that_name(tmp_path: Path) -> None:
    numbers = [str(label + 1) for label in range(LABELS)]
    with pytest.raises(Refusal) as refused:
        understood(tmp_path, ToyNet(LABELS), save_folders(tmp_path / "b.zip", numbers, range(LABELS)))
    assert "numbers that count from 1" in refused.value.problem.detail and '"12": 11' in refused.value.problem.advice


def test_labels_that_are_off_by_one_and_within_the_outputs_block_and_are_named(tmp_path: Path) -> None:
    numbers = [str(label + 1) for label in range(LABELS - 1)]
    bundle = save_folders(tmp_path / "b.zip", numbers, range(LABELS - 1))
    found = understood(tmp_path, ToyNet(LABELS), bundle)
    assert found.reasons == (Reason.IMPLAUSIBLE_ACCURACY,) and "numbers that count from 1" in found.doubts[0]


def test_an_accuracy_far_below_the_models_own_confidence_is_no_verdict(tmp_path: Path) -> None:
    """Right on a third of the images, which is twice chance, of a bundle whose other labels follow no order."""
    save_toy_bundle(tmp_path / "b.npz", per_label=10)
    with np.load(tmp_path / "b.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    labels[20:] = np.random.default_rng(0).permutation(labels[20:])
    np.savez(tmp_path / "b.npz", images=images, labels=labels)
    sure = ToyNet()
    sure.match.weight.data *= 30
    found = understood(tmp_path, sure, tmp_path / "b.npz")
    assert found.confidence is not None and found.confidence > 0.95 and found.clean_accuracy is not None
    assert 2 / 6 <= found.clean_accuracy < 0.5 and found.reasons == (Reason.IMPLAUSIBLE_ACCURACY,)
    assert f"right on {found.clean_accuracy:.0%} of the images" in found.doubts[-1]
    low, high = found.accuracy_interval or (1.0, 0.0)
    assert low < found.clean_accuracy < high and found.images_judged == 60


def test_pixels_that_nobody_stretched_are_a_doubt(tmp_path: Path) -> None:
    save_toy_bundle(tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as arrays:
        np.savez(tmp_path / "dark.npz", images=arrays["images"] // 17, labels=arrays["labels"])
    found = understood(tmp_path, ToyNet(), tmp_path / "dark.npz")
    assert any("The largest value of all images is" in doubt for doubt in found.doubts)


def test_blue_first_that_fits_better_than_what_was_given_is_a_doubt(tmp_path: Path) -> None:
    class Flipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(8 * torch.eye(3).flip(0))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) @ self.weight

    labels = np.arange(3).repeat(10)
    images = np.full((30, 16, 16, 3), 80, np.uint8)
    images[np.arange(30), :, :, labels] = 180
    np.savez(tmp_path / "b.npz", images=images, labels=labels)
    found = understood(tmp_path / "given", Flipped(), tmp_path / "b.npz", channels=3)
    assert any("--channel-order bgr" in doubt for doubt in found.doubts)
    found = understood(tmp_path / "said", Flipped(), tmp_path / "b.npz", channels=3, channel_order="bgr")
    assert found.clean_accuracy == 1.0 and found.input is not None and found.input.bgr


def test_pixels_that_the_model_knows_better_than_as_they_were_given_are_a_doubt(tmp_path: Path) -> None:
    save_toy_bundle(tmp_path / "b.npz")
    net = Particular((0.0,), (1.0,), (0.0, 255.0), 1)
    found = understood(tmp_path / "wrong", net, tmp_path / "b.npz", mean=(0.5,), std=(0.5,))
    assert any("with bytes [0, 255] on 100%" in doubt for doubt in found.doubts)
    names = [fit.name for fit in found.conventions]
    assert names[0] == "as given" and "symmetric range [-1, 1]" not in names, "that is what was given"
    found = understood(tmp_path / "right", net, tmp_path / "b.npz", range=(0.0, 255.0))
    assert found.clean_accuracy == 1.0 and not found.doubts


def test_that_images_were_resized_or_lost_their_colours_is_said(tmp_path: Path) -> None:
    save_toy_bundle(tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as arrays:
        large = arrays["images"].repeat(2, axis=1).repeat(2, axis=2)
        np.savez(tmp_path / "large.npz", images=np.repeat(large[..., :1], 3, axis=3), labels=arrays["labels"])
    side = large.shape[1] // 2
    found = understood(tmp_path, ToyNet(), tmp_path / "large.npz", height=side, width=side)
    said = " ".join(note.sentence for note in found.notes if note.kind is NoteKind.FITTED_IMAGES)
    assert f"{2 * side} x {2 * side} and were resized to {side} x {side}" in said and "takes grey" in said
    assert not understood(tmp_path / "as it is", ToyNet(), tmp_path / "b.npz").notes


class Remembers(nn.Module):
    """A toy that has a batch norm, which remembers toys, before it."""

    def __init__(self, net: nn.Module, sureness: float) -> None:
        super().__init__()
        self.norm, self.net, self.sureness = nn.BatchNorm2d(1), net, sureness
        images = toy_images(10)
        with torch.no_grad():
            self.norm.running_mean, self.norm.running_var = images.mean((0, 2, 3)), images.var((0, 2, 3))
            self.norm.weight.copy_(self.norm.running_var.sqrt())
            self.norm.bias.copy_(self.norm.running_mean)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(self.norm(images)) * self.sureness


def test_images_from_elsewhere_are_a_doubt_unless_it_was_declared_how_often_the_model_is_right(tmp_path: Path) -> None:
    net = Remembers(ToyNet(), sureness=30.0)
    own = understood(tmp_path / "own", net, save_toy_bundle(tmp_path / "own.npz", per_label=10))
    assert own.shift is not None and own.shift.likeness is Likeness.AS_TRAINED and not own.doubts
    assert (own.shift.layers, own.shift.images, own.shift.shortfall) == (1, 50, pytest.approx(0.0))
    assert (own.shift.distance or 1) < 0.05
    with np.load(tmp_path / "own.npz") as arrays:
        images, labels = arrays["images"] // 2 + 100, arrays["labels"]
    labels[36:] = np.roll(labels[36:], 1)  # they are often taken for others
    np.savez(tmp_path / "other.npz", images=images, labels=labels)
    found = understood(tmp_path / "other", net, tmp_path / "other.npz")
    assert found.shift is not None and found.shift.likeness is Likeness.FROM_ELSEWHERE and not found.reasons
    assert any("as its batch norms remember them" in doubt for doubt in found.doubts)
    declared = understood(tmp_path / "said", net, tmp_path / "other.npz", expected_accuracy=0.6)
    assert declared.shift is not None and declared.shift.likeness is Likeness.SOMEWHAT_DIFFERENT and not declared.doubts


class FourAtOnce(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images.view(4, 1, 16, 16))


def test_of_a_model_that_takes_so_many_images_at_once_no_image_counts_twice(tmp_path: Path) -> None:
    bundle = save_toy_bundle(tmp_path / "b.npz", per_label=10)
    found = understood(tmp_path / "four", FourAtOnce(Remembers(ToyNet(), 1.0)), bundle).shift
    free = understood(tmp_path / "free", Remembers(ToyNet(), 1.0), bundle).shift
    assert found is not None and free is not None and (found.images, free.images) == (48, 50)
    assert found.distance == pytest.approx(free.distance, abs=0.01)

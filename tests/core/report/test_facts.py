"""The rows that say what a scan took for true, made from documents."""

from dataclasses import replace
from typing import Any

from app.core.findings import ConventionFit, Likeness, OtherOutput, Preparation, Reason, Shift, Takes
from app.core.intake.notes import Note, NoteKind
from app.core.report.document import check_document
from app.core.report.facts import facts, understood
from tests.core.report.report_samples import INPUTS, NAMES, PREPARATION, document_of_a_model_that_was_not_loaded

KNOWN = replace(
    PREPARATION,
    accuracy_interval=(0.909, 0.953),
    confidence=0.941,
    images_judged=300,
    label_source="sorted",
    convention="CIFAR-10 mean and std",
    conventions=(
        ConventionFit("CIFAR-10 mean and std", 0.934, 0.21, 1.0),
        ConventionFit("ImageNet mean and std", 0.93, 0.22, 0.98),
    ),
    close_conventions=("ImageNet mean and std",),
)


def rows(preparation: Preparation) -> dict[str, str]:
    document = check_document(None, preparation, INPUTS, {})
    return {fact.name: fact.words.replace("\N{NO-BREAK SPACE}", " ") for fact in facts(document)}


def test_accuracy_stands_beside_the_confidence_and_what_was_declared() -> None:
    assert rows(KNOWN)["Accuracy"] == (
        "93.4 % of 300 images (90.9 % to 95.3 %); the model is 94.1 % sure of its answers; nothing was declared"
    )
    assert rows(replace(KNOWN, expected_accuracy=0.95))["Accuracy"].endswith("95.0 % declared")
    assert rows(replace(KNOWN, clean_accuracy=None))["Accuracy"].startswith("unknown, for the images carry no labels")


def test_how_like_the_images_of_the_training_they_are_is_said_in_three_grades_or_not_known() -> None:
    def words(*known: Any) -> str:
        return rows(replace(KNOWN, shift=Shift(*known)))["Likeness"]

    assert words(Likeness.AS_TRAINED, 0.05, 17, 100, 0.0) == (
        "the images are like those of the training, 0.05 standard deviations away (the median of 17 batch norms)"
    )
    assert words(Likeness.SOMEWHAT_DIFFERENT, 0.25, 1, 100, None) == (
        "the images are somewhat different from those of the training, 0.25 standard deviations away (by its only "
        "batch norm)"
    )
    assert words(Likeness.FROM_ELSEWHERE, 0.9, 2, 100, 0.3).endswith("the accuracy is 30.0 % lower than it should be")
    assert words(Likeness.NOT_KNOWN, None, 0, 100, 0.0) == "not known, for no batch norm remembers the training"


def test_missing_classes_are_named() -> None:
    assert rows(KNOWN)["Images"] == "500, 50 of each of 10 classes; none is missing"
    some = replace(KNOWN, images=90, images_per_label=(50, 0, 0, 40, 0, 0, 0, 0, 0, 0))
    assert rows(some)["Images"] == (
        "90, 40 to 50 of each of 2 classes; 8 missing: automobile, bird, deer, dog, frog, horse, ship, truck"
    )


def test_preprocessing_is_told_with_its_runners_up() -> None:
    assert rows(KNOWN)["Pixels"].startswith("CIFAR-10 mean and std, inferred (range 0 to 1, mean 0.4914, 0.4822")
    assert rows(KNOWN)["Runners-up"] == "ImageNet mean and std (93.0 % right, about as good)"
    assert KNOWN.input is not None
    given = replace(KNOWN, input=replace(KNOWN.input, bgr=True), input_source="given", convention="")
    assert "blue first (BGR), given with the scan" in rows(given)["Pixels"]


def test_where_labels_are_from_is_said_with_the_order_that_was_read_off() -> None:
    note = Note(NoteKind.ASSUMED_ORDER, "They were numbered as their names sort: `ant` is 0.")
    assert rows(replace(KNOWN, notes=(note,)))["Classes"] == f"assumed: numbered as the names sort. {note.sentence}"
    read = replace(KNOWN, label_source="inferred", class_order_cause="natural order")
    assert rows(read)["Classes"] == "read off the model's own answers: natural order"


def test_other_outputs_and_unusual_inputs_are_named() -> None:
    others = (OtherOutput("aux", "[N, 10]", True, 0.18), OtherOutput("loss", "one number", False))
    several = replace(KNOWN, chosen_output="logits", other_outputs=others, takes=Takes.LIST)
    assert rows(several)["Outputs"] == (
        "logits for 10 labels, from the output `logits`; not scanned: `aux` [N, 10] (18.0 % right), `loss` one number"
    )
    assert rows(several)["Size"] == "32 x 32, colour; as a list of images"


def test_what_was_skipped_is_told_in_the_bundles_words() -> None:
    note = Note(NoteKind.SKIPPED_FILES, "3 files are no images, such as `README.md`.", 3, "README.md")
    assert rows(replace(KNOWN, notes=(note,)))["Bundle"] == note.sentence and "Bundle" not in rows(KNOWN)


def test_a_model_that_was_not_loaded_has_no_facts() -> None:
    assert facts(document_of_a_model_that_was_not_loaded()) == []


def test_a_check_is_ready_if_nothing_blocks_and_nothing_is_in_doubt() -> None:
    def ready(**known: Any) -> bool:
        document = check_document(None, replace(KNOWN, **known), INPUTS, {})
        assert document["ready"] == understood(document)["ready"]
        return bool(document["ready"])

    assert ready() and not ready(doubts=("Something.",)) and not ready(reasons=(Reason.IMPLAUSIBLE_ACCURACY,))
    assert [row["name"] for row in check_document(None, KNOWN, INPUTS, {})["labels"]] == list(NAMES)

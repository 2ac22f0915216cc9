"""Bundles of picture files as people pack them: what is taken, what is left out and counted, what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.core.errors import Refusal
from app.core.intake.bundle import Bundle, check_labels, read_bundle
from app.core.intake.labelling import LabelSource, natural_order
from app.core.intake.notes import Note, NoteKind
from tests.core.intake.packing import marked, zipped

Members = Mapping[str, bytes | str]

TEN = {f"{label}/{place}.png": marked(label) for label in range(3) for place in range(4)}
FLAT = {f"{label}_{place}.png": marked(label) for label in range(3) for place in range(4)}


def reading(folder: Path, members: Members) -> Bundle:
    bundle = read_bundle(zipped(folder / "b.zip", dict(members)))
    for note in bundle.notes:
        assert note.sentence.endswith(".") and note.sentence.isprintable()
        assert Note.from_json(json.loads(json.dumps(note.__dict__))) == note
    return bundle


def told(bundle: Bundle, kind: NoteKind) -> Note:
    return next(note for note in bundle.notes if note.kind is kind)


def matches(bundle: Bundle) -> bool:
    """Whether every image has the label that is painted on it."""
    assert bundle.labels is not None
    return [int(image[0, 0, 0]) for image in bundle.images] == bundle.labels.tolist()


def refusal(folder: Path, members: Members) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        reading(folder, members)
    return caught.value.problem.code, str(caught.value)


# What is skipped is counted


@pytest.mark.parametrize(
    ("junk", "kind"),
    [
        ("LICENSE", NoteKind.SKIPPED_FILES),
        ("0/README", NoteKind.SKIPPED_FILES),
        ("features.npy", NoteKind.SKIPPED_FILES),
        ("notes.docx", NoteKind.SKIPPED_FILES),
        ("0/model.weights", NoteKind.SKIPPED_FILES),
        ("readme.txt", NoteKind.SKIPPED_FILES),
        ("Thumbs.db", NoteKind.SKIPPED_LEFTOVERS),
        ("0/.DS_Store", NoteKind.SKIPPED_LEFTOVERS),
        ("__MACOSX/0/._1.png", NoteKind.SKIPPED_LEFTOVERS),
        ("0/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", NoteKind.SKIPPED_LEFTOVERS),
        ("1/.ipynb_checkpoints/1-checkpoint.png", NoteKind.SKIPPED_LEFTOVERS),
        ("$RECYCLE.BIN/x.png", NoteKind.SKIPPED_LEFTOVERS),
    ],
)
def test_a_stray_file_is_skipped_and_counted(tmp_path: Path, junk: str, kind: NoteKind) -> None:
    bundle = reading(tmp_path, TEN | {junk: "free to use"})
    assert matches(bundle) and len(bundle) == len(TEN)
    assert [(note.kind, note.count, note.example) for note in bundle.notes] == [(kind, 1, junk)]


def test_a_logo_beside_the_class_folders_is_skipped_but_not_many_images(tmp_path: Path) -> None:
    bundle = reading(tmp_path, TEN | {"logo.png": marked(99)})
    assert matches(bundle)
    assert told(bundle, NoteKind.SKIPPED_FILES).example == "logo.png"
    code, _ = refusal(tmp_path, TEN | FLAT)
    assert code == "mixed_layout"


def test_masks_beside_their_images_are_skipped_and_counted(tmp_path: Path) -> None:
    masks = {f"{name.removesuffix('.png')}_mask.png": marked(255) for name in TEN}
    bundle = reading(tmp_path, TEN | masks)
    assert matches(bundle)
    assert told(bundle, NoteKind.SKIPPED_MASKS).count == len(TEN)


def test_an_archive_in_a_class_folder_is_not_skipped_in_silence(tmp_path: Path) -> None:
    assert refusal(tmp_path, TEN | {"0/more": b"PK\3\4" + bytes(40)})[0] == "image_unsupported"


def test_a_bundle_without_images_says_what_it_holds(tmp_path: Path) -> None:
    code, words = refusal(tmp_path, {"data.npz": b"PK\3\4"})
    assert code == "bundle_empty" and "`data.npz`" in words and "archive inside" in words


# Folders around the classes


@pytest.mark.parametrize("wrapper", ["dataset", "dataset/val", "a/b/c", "train"])
def test_a_chain_of_single_folders_is_unwrapped(tmp_path: Path, wrapper: str) -> None:
    beside = {"README": "hi", f"{wrapper}/bundle.json": '{"input": {"height": 4, "width": 4}}'}
    bundle = reading(tmp_path, {f"{wrapper}/{name}": content for name, content in TEN.items()} | beside)
    assert matches(bundle)
    assert told(bundle, NoteKind.UNWRAPPED).example == wrapper
    assert bundle.declared is not None and bundle.declared.height == 4


def test_of_several_splits_the_one_unseen_in_training_is_taken_and_said(tmp_path: Path) -> None:
    members = {
        f"data/{split}/{name}": content
        for split in ("train", "Test", "val")
        for name, content in TEN.items()
        if split != "train" or not name.startswith("1/")
    }
    bundle = reading(tmp_path, members)
    assert matches(bundle) and len(bundle) == len(TEN)
    note = told(bundle, NoteKind.SKIPPED_SPLIT)
    assert note.count == len(members) - len(TEN)
    assert "`Test` were taken" in note.sentence and "`train` and `val`" in note.sentence


def test_a_class_that_the_taken_split_lacks_keeps_its_place_in_the_order(tmp_path: Path) -> None:
    members = {f"train/{name}/1.png": marked(9) for name in ("ant", "bee", "cow")}
    members |= {"test/ant/1.png": marked(0), "test/cow/1.png": marked(2)}
    bundle = reading(tmp_path, members)
    assert bundle.class_indices == {"ant": 0, "bee": 1, "cow": 2}
    assert matches(bundle)
    assert told(bundle, NoteKind.EMPTY_CLASSES).example == "bee"


def test_a_folder_within_every_class_folder_is_looked_through(tmp_path: Path) -> None:
    assert matches(reading(tmp_path, {name.replace("/", "/images/"): content for name, content in TEN.items()}))


@pytest.mark.parametrize(
    "pair", [("images", "masks"), ("Images", "labels"), ("image", "mask"), ("JPEGImages", "SegmentationClass")]
)
def test_images_and_their_masks_are_no_classes(tmp_path: Path, pair: tuple[str, str]) -> None:
    code, words = refusal(tmp_path, {f"{folder}/{place}.png": marked(1) for folder in pair for place in range(3)})
    assert code == "folders_not_classes"
    assert pair[0] in words and "masks" in words and "labels.csv" in words


@pytest.mark.parametrize("kind", ["part_", "images_00", "batch"])
def test_the_parts_of_an_archive_are_no_classes(tmp_path: Path, kind: str) -> None:
    code, words = refusal(tmp_path, {f"{kind}{part}/{part}.png": marked(1) for part in (1, 2, 3)})
    assert code == "folders_not_classes" and f"`{kind}1`" in words


def test_odd_names_of_folders_are_classes_where_they_are_declared(tmp_path: Path) -> None:
    members = {"images/1.png": marked(0), "masks/1.png": marked(1), "bundle.json": '["images", "masks"]'}
    assert matches(reading(tmp_path, members))


def test_folders_about_masks_are_classes_where_no_folder_holds_their_images(tmp_path: Path) -> None:
    assert reading(tmp_path, {"mask/1.png": marked(0), "no_mask/1.png": marked(1)}).label_source is LabelSource.SORTED


# Tables


def rows(labels: Mapping[str, object], header: str = "file,label", line: str = "{},{}") -> str:
    return "\n".join([*([header] if header else []), *(line.format(name, label) for name, label in labels.items())])


LABELS = {name: int(name[0]) for name in FLAT}
TABLES: dict[str, tuple[str, str]] = {
    "train.csv": ("train.csv", rows(LABELS)),
    "hugging face": ("metadata.csv", rows(LABELS, "file_name,label")),
    "hugging face, lines": (
        "metadata.jsonl", "\n".join(json.dumps({"file_name": name, "label": label}) for name, label in LABELS.items()),
    ),
    "semicolons": ("labels.csv", rows(LABELS, "Filename;Width;ClassId", "{};8;{}")),
    "tabs": ("list.tsv", rows(LABELS, "image\tclass", "{}\t{}")),
    "no header": ("val.txt", rows(LABELS, "", "{} {}")),
    "no header, more columns": ("val_annotations.txt", rows(LABELS, "", "{}\t{}\t0\t0\t8\t8")),
    "no extension": ("meta.csv", rows({name[:-4]: label for name, label in LABELS.items()},
                                      "lesion_id,image_id,dx", "x,{},{}")),
    "other paths": ("train.csv", rows({f"C:\\data\\{name}": label for name, label in LABELS.items()}, "path,target")),
    "label first": ("train.csv", rows(LABELS, "label,id", "{1},{0}")),
    "a column for each class": ("_classes.csv", rows({name: ("1,0,0", "0,1,0", "0,0,1.0")[label]
                                                      for name, label in LABELS.items()}, "filename, 0, 1, 2")),
    "json map": ("labels.json", json.dumps(LABELS)),
    "index column": ("train.csv", rows({f"{place},{name}": label for place, (name, label) in enumerate(LABELS.items())},
                                       ",image,label")),
    "excel": ("labels.csv", "\ufeff" + rows(LABELS, "File,Label").replace("\n", "\r\n")),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("folder", ["", "images/", "data/images/"])
def test_a_table_that_names_the_images_is_used_and_named(tmp_path: Path, case: str, folder: str) -> None:
    name, content = TABLES[case]
    bundle = reading(tmp_path, {f"{folder}{image}": data for image, data in FLAT.items()} | {name: content})
    assert matches(bundle) and len(bundle) == len(FLAT)
    if name != "labels.csv":
        assert told(bundle, NoteKind.TABLE).example == name


def test_names_of_several_words_stay_whole_in_a_list_without_a_header(tmp_path: Path) -> None:
    words = ["cat", "red fox", "red panda"]
    listed = rows({name: words[label] for name, label in LABELS.items()}, "", "{} {}")
    bundle = reading(tmp_path, FLAT | {"val.txt": listed})
    assert matches(bundle) and list(bundle.class_indices) == words


def test_a_table_decides_where_folders_are_parts_of_an_archive(tmp_path: Path) -> None:
    names = dict(zip(FLAT, ["nv", "mel", "bcc"] * 4, strict=True))
    members = {f"part_{place % 2 + 1}/{name}": data for place, (name, data) in enumerate(FLAT.items())}
    table = rows({name[:-4]: label for name, label in names.items()} | {"missing": "nv"}, "image_id,dx")
    bundle = reading(tmp_path, members | {"metadata.csv": table})
    assert bundle.class_indices == {"bcc": 0, "mel": 1, "nv": 2}
    assert bundle.label_source is LabelSource.SORTED
    assert "`dx`" in told(bundle, NoteKind.TABLE).sentence


def test_rows_without_a_file_are_counted(tmp_path: Path) -> None:
    table = rows(LABELS | {"gone_1.png": 7, "gone_2.png": 8})
    note = told(reading(tmp_path, FLAT | {"labels.csv": table}), NoteKind.ROWS_WITHOUT_FILE)
    assert (note.count, note.example) == (2, "gone_1.png")


def test_images_without_a_row_are_refused(tmp_path: Path) -> None:
    code, words = refusal(tmp_path, FLAT | {"train.csv": rows(LABELS), "extra.png": marked(0)})
    assert code == "labels_mismatch" and "`extra.png`" in words and "train.csv" in words


def test_a_split_that_the_table_does_not_speak_of_is_left_out_and_counted(tmp_path: Path) -> None:
    members = {f"train/{name}": data for name, data in FLAT.items()} | {
        "test/0_0.png": marked(9),
        "test/9.png": marked(9),
    }
    submission = rows({"0_0.png": 0, "9.png": 0})
    bundle = reading(tmp_path, members | {"train.csv": rows(LABELS), "sample_submission.csv": submission})
    assert matches(bundle) and len(bundle) == len(FLAT)
    assert told(bundle, NoteKind.SKIPPED_SPLIT).count == 2


def test_a_table_without_a_column_of_labels_is_refused_by_name(tmp_path: Path) -> None:
    code, words = refusal(tmp_path, FLAT | {"train.csv": rows(LABELS, "file,width")})
    assert code == "labels_csv" and "`train.csv`" in words and "`width`" in words


def test_a_table_that_contradicts_the_folders_is_refused_and_one_that_agrees_gives_the_indices(tmp_path: Path) -> None:
    names = {"zebra": 0, "ant": 1, "cow": 2}
    members = {f"{name}/{place}.png": marked(index) for name, index in names.items() for place in range(3)}
    agreeing = rows({path: names[path.split("/")[0]] for path in members})
    bundle = reading(tmp_path, members | {"train.csv": agreeing})
    assert matches(bundle) and bundle.label_source is LabelSource.INDICES
    code, words = refusal(
        tmp_path, members | {"train.csv": rows({path: place % 3 for place, path in enumerate(members)})}
    )
    assert code == "labels_csv" and "train.csv" in words


def test_two_tables_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    other = rows(dict.fromkeys(LABELS, 1))
    code, words = refusal(tmp_path, FLAT | {"a.csv": rows(LABELS), "b.csv": other})
    assert code == "labels_csv" and "`a.csv`" in words and "`b.csv`" in words


def test_a_form_of_annotations_that_is_not_read_is_refused_by_name(tmp_path: Path) -> None:
    coco = {"images": [{"id": 1, "file_name": name} for name in FLAT], "annotations": [], "categories": []}
    code, words = refusal(tmp_path, FLAT | {"_annotations.coco.json": json.dumps(coco)})
    assert code == "labels_csv" and "`_annotations.coco.json`" in words and "leave it out" in words


@pytest.mark.parametrize("name", ["labels.xlsx", "train.PARQUET", "imagelabels.mat", "labels.npy", "0_0.xml"])
@pytest.mark.parametrize("folder", ["", "jpg/", "images/"])
def test_a_table_in_a_form_that_is_not_read_is_refused_by_name_with_a_way_on(
    tmp_path: Path, name: str, folder: str
) -> None:
    code, words = refusal(tmp_path, {f"{folder}{image}": data for image, data in FLAT.items()} | {name: "PAR1"})
    assert code == "labels_csv" and f"`{name}`" in words and "as CSV" in words and "leave it out" in words
    beside = reading(tmp_path, TEN | {name: "PAR1"})
    assert matches(beside) and told(beside, NoteKind.SKIPPED_FILES).example == name


def test_of_two_splits_with_a_table_each_one_is_taken_with_its_own(tmp_path: Path) -> None:
    other = {name: (label + 1) % 3 for name, label in LABELS.items()}
    members = {f"{split}/{name}": data for split in ("train", "test") for name, data in FLAT.items()}
    for split, labels in (("train", other), ("test", LABELS)):
        members[f"{split}/metadata.csv"] = rows(labels, "file_name,label")
    bundle = reading(tmp_path, members)
    assert matches(bundle) and len(bundle) == len(FLAT)
    assert told(bundle, NoteKind.TABLE).example == "test/metadata.csv"
    assert told(bundle, NoteKind.SKIPPED_SPLIT).count == len(FLAT)
    assert told(bundle, NoteKind.SKIPPED_FILES).example == "train/metadata.csv"


def test_a_text_beside_unlabelled_images_does_not_make_them_labelled(tmp_path: Path) -> None:
    assert reading(tmp_path, FLAT | {"README.txt": "free to use\nby all"}).labels is None


@pytest.mark.parametrize("name", ["{}.{:03}.png", "{} ({}).png", "3_{0}_{1}.png"])
def test_files_that_are_called_by_their_classes_are_not_passed_over(tmp_path: Path, name: str) -> None:
    bundle = reading(tmp_path, {name.format(of, place): marked(place) for of in ("cat", "dog") for place in range(3)})
    assert bundle.labels is None
    assert "one folder per class" in told(bundle, NoteKind.CALLED_BY_CLASS).sentence


@pytest.mark.parametrize("name", ["img_{}.png", "{}.png", "{0}_{0}.png", "cam{}_x.png"])
def test_files_that_are_only_counted_are_called_by_no_class(tmp_path: Path, name: str) -> None:
    assert not reading(tmp_path, {name.format(place): marked(place) for place in range(6)}).notes


# The order of classes


def test_an_assumed_order_is_told_with_every_name_and_the_natural_one(tmp_path: Path) -> None:
    bundle = reading(tmp_path, {f"class{number}/1.png": marked(1) for number in (1, 2, 10)})
    note = told(bundle, NoteKind.ASSUMED_ORDER)
    assert list(bundle.class_indices) == ["class1", "class10", "class2"]
    assert note.count == 3
    assert "`class10` is 1" in note.sentence and "In natural order `class2` would be 1" in note.sentence
    assert natural_order(["b", "a10", "a9", "a09b"]) == ["a9", "a09b", "a10", "b"]


@pytest.mark.parametrize("outputs", [2, 10, 12, 101])
def test_a_number_of_folders_that_is_not_the_number_of_outputs_gets_no_guessed_order(
    tmp_path: Path, outputs: int
) -> None:
    bundle = reading(tmp_path, {f"{name}/1.png": marked(1) for name in ("ant", "bee", "cow")})
    check_labels(bundle, 3)
    with pytest.raises(Refusal, match=rf"3 classes \(`ant`, `bee`, `cow`\) and the model {outputs} outputs") as caught:
        check_labels(bundle, outputs)
    assert caught.value.problem.code == "class_order_unknown"
    assert '{"classes": {"ant": INDEX' in caught.value.problem.advice and "--classes" in caught.value.problem.advice


def test_a_list_of_more_classes_than_outputs_is_not_the_models(tmp_path: Path) -> None:
    bundle = reading(tmp_path, {"ant/1.png": marked(0), "bee/1.png": marked(1), "bundle.json": '["ant", "bee", "cow"]'})
    check_labels(bundle, 3)
    with pytest.raises(Refusal, match=r"index 2 \(`cow`\).*labels 0 to 1.*another one"):
        check_labels(bundle, 2)


@pytest.mark.parametrize(("last", "words"), [(10, r'"1", "2", "3".*"1", "10", "2"'), (5, r'"1", "2", "3"')])
def test_folders_that_count_from_one_are_named_with_the_ways_to_count(tmp_path: Path, last: int, words: str) -> None:
    bundle = reading(tmp_path, {f"{number}/1.png": marked(1) for number in range(1, last + 1)})
    with pytest.raises(Refusal, match=rf"count from 1.*--classes.*{words}") as caught:
        check_labels(bundle, last)
    assert caught.value.problem.code == "label_out_of_range"


def test_a_file_of_classes_in_the_bundle_or_with_the_request_gives_the_order(tmp_path: Path) -> None:
    members = {f"{name}/1.png": marked(index) for index, name in enumerate(("zebra", "ant", "cow"))}
    beside = reading(tmp_path, members | {"class_to_idx.json": json.dumps({"zebra": 0, "ant": 1, "cow": 2, "owl": 3})})
    assert matches(beside) and beside.label_source is LabelSource.DECLARED
    assert told(beside, NoteKind.DECLARED_ELSEWHERE).example == "class_to_idx.json"
    path = zipped(tmp_path / "r.zip", {**members, "bundle.json": '["ant", "cow", "zebra"]'})
    assert matches(read_bundle(path, classes={"zebra": 0, "ant": 1, "cow": 2}))

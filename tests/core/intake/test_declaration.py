"""bundle.json and files of classes: every form that people have is understood, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import Refusal
from app.core.intake.declaration import DeclaredInput, read_class_file, read_declaration
from app.core.intake.notes import NoteKind

TWO = {"cat": 0, "dog": 1}


@pytest.mark.parametrize(
    "document",
    [
        {"classes": TWO},
        {"Classes": TWO},
        {"classes": ["cat", "dog"]},
        {"class_names": ["cat", "dog"]},
        {"class_to_idx": TWO},
        {"label2id": {"cat": "0", "dog": "1"}},
        {"id2label": {"0": "cat", "1": "dog"}},
        {"idx_to_class": {"1": "dog", "0": "cat"}},
        {"id2label": {"0": "cat", "1": "dog"}, "label2id": TWO},
        {"class_indices": TWO},
        {"name_to_index": TWO, "index2name": {"0": "cat", "1": "dog"}},
        {"vocab": ["cat", "dog"]},
        {"classes": {"0": "cat", "1": "dog"}},
        {"classes": {"0": ["cat", "Felis catus"], "1": ["dog", "Canis lupus"]}},
        {"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]},
        {"classes": [{"class_id": 1, "class_name": "dog"}, {"class_id": 0, "class_name": "cat"}]},
        {"classes": [{"label": 0, "name": "cat"}, {"label": 1, "name": "dog"}]},
        {"classes": [{"label": "cat", "Index": 0}, {"label": "dog", "Index": 1}]},
        ["cat", "dog"],
        TWO,
        {"0": "cat", "1": "dog"},
    ],
)
def test_classes_are_understood_in_every_form_that_people_have(tmp_path: Path, document: Any) -> None:
    content = json.dumps(document)
    assert read_declaration(content.encode()).classes == TWO
    path = tmp_path / "classes.json"
    path.write_text(content)
    assert read_class_file(path) == TWO


def test_numbers_as_names_keep_their_meaning() -> None:
    as_sorted = {"0": 0, "1": 1, "10": 2, "2": 3}
    assert read_declaration(json.dumps({"classes": as_sorted}).encode()).classes == as_sorted
    assert read_declaration(json.dumps({"classes": list(as_sorted)}).encode()).classes == as_sorted
    assert read_declaration(b'{"id2label": {"0": "7", "1": "3"}}').classes == {"7": 0, "3": 1}


def test_words_of_the_input_at_the_top_are_taken_and_noted() -> None:
    declaration = read_declaration(b'{"mean": [0.5], "Range": [0, 1], "height": 16, "input": {"std": 0.25}}')
    assert declaration.input == DeclaredInput(height=16, mean=(0.5,), std=(0.25,), range=(0.0, 1.0))
    assert [note.kind for note in declaration.notes] == [NoteKind.DECLARED_ELSEWHERE]
    assert "`mean`, `range`, `height`" in declaration.notes[0].sentence


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ('{"image_mean": [0.5]}', "`image_mean`; say it as `mean` in `input`"),
        ('{"size": 224}', "`size`; say it as `height` and `width` in `input`"),
        ('{"input": {"size": [3, 224, 224]}}', "`size` in `input`; say it as `height` and `width`"),
        ('{"input": {"accuracy": 0.9}}', "`accuracy` in `input`; say it as `expected_accuracy`"),
        ('{"input": {"channel_order": "brg"}}', '`channel_order` as "rgb" or "bgr"'),
        ('{"clases": ["cat"]}', "`clases`; perhaps `classes` is meant"),
        ('{"classes": ["cat"], "author": "me"}', "unknown entry `author`; known are `input`"),
        ('{"mean": 0.5, "input": {"mean": 0.4}}', "`mean` both at its top and in `input`"),
        ('{"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 1, "dog": 0}}', "keep one of them"),
        ('{"classes": {"0": "1", "1": "0"}}', "numbers on both sides"),
        ('{"classes": {"cat": 0, "cat": 1}}', "says `cat` twice"),
        ('{"classes": {}, "classes": {}}', "says `classes` twice"),
        ('{"classes": ["cat", "cat"]}', "`cat` to the indices 0 and 1"),
        ('{"classes": ["cat", null]}', "as text, not as null"),
        ('{"classes": "cat,dog"}', "or as a list of names"),
        ('{"classes": {"cat": 0.5}}', "class `cat` an index from 0"),
        ('{"classes": {"cat": true}}', "class `cat` an index from 0"),
    ],
)
def test_what_is_not_understood_is_refused_by_name_with_the_right_place(document: str, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_declaration(document.encode())
    assert words in caught.value.problem.detail
    assert caught.value.problem.code == "bundle_json"


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\n",
        "\ufeff0 cat\r\n1 dog\r\n",
        "cat 0\ndog 1",
        "0: cat\n1: dog",
        "dog,1\ncat,0",
        "idx,name\n0,cat\n1,dog",
        "class;label\ncat;0\ndog;1",
        "names:\n  0: cat\n  1: dog",
    ],
)
def test_a_file_of_classes_may_be_text_with_a_name_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text, encoding="utf-8")
    assert read_class_file(path) == TWO


def test_names_of_several_words_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("red panda\ngiant panda\n")
    assert read_class_file(path) == {"red panda": 0, "giant panda": 1}


def test_the_classes_of_a_hugging_face_config_are_found_among_its_other_entries(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architectures": ["ViT"], "id2label": {"0": "cat", "1": "dog"}, "label2id": TWO}))
    assert read_class_file(path) == TWO


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "names no class"),
        (b"\xe9t\xe9\n", "neither JSON nor text"),
        (b"{", "no JSON"),
        (b"x" * (1 << 20) + b"y", "larger than 1 MB"),
        (b"cat\ncat\n", "`cat` to the indices 0 and 1"),
    ],
)
def test_a_bad_file_of_classes_is_refused_with_what_to_write(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "classes"
    path.write_bytes(content)
    with pytest.raises(Refusal, match=words) as caught:
        read_class_file(path)
    assert caught.value.problem.code == "class_file"
    assert "one name a line" in caught.value.problem.advice


def test_a_missing_file_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="cannot be read"):
        read_class_file(tmp_path / "none.json")

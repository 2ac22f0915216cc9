"""Names that say nothing of their encoding: the code page is found, named, and decides how they are read."""

import zipfile
from pathlib import Path

import pytest

from app.core.intake.bundle import read_bundle
from app.core.intake.codepages import find_code_page
from app.core.intake.notes import NoteKind
from tests.core.intake.packing import marked, tarred, zipped

NAMES = [
    ("gbk", "山楂 枣 樱桃 苹果"),
    ("gbk", "猫 狗"),
    ("gbk", "正常 异常"),
    ("big5", "貓 狗 鳥 蘋果"),
    ("cp932", "ねこ いぬ とり"),
    ("cp932", "猫 犬 鳥 鹿 馬"),
    ("cp932", "リンゴ バナナ オレンジ"),
    ("cp949", "고양이 개 새 사과"),
    ("cp949", "정상 불량"),
    ("cp1251", "кот собака птица яблоко"),
    ("cp866", "Кошка Собака Лошадь"),
    ("cp437", "café naïve été"),
    ("cp437", "Äpfel Bäume Vögel"),
    ("cp1252", "café pêche Äpfel"),
    ("cp1253", "γάτα σκύλος"),
    ("utf-8", "山楂 кот café"),
]


@pytest.mark.parametrize(("page", "names"), NAMES)
def test_a_code_page_is_known_by_its_words(page: str, names: str) -> None:
    assert find_code_page([name.encode(page) for name in names.split() if not name.isascii()]) == page


class _RawInfo(zipfile.ZipInfo):
    """A member whose name is written as the bytes it has in a code page."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # zipfile asks for it by this name
        return self.filename.encode("gbk"), 0


def packed_on_a_chinese_windows(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for value, name in enumerate(names):
            archive.writestr(_RawInfo(name), marked(value))
    return path


def test_a_zip_from_a_chinese_windows_is_read_and_sorted_as_it_was_written(tmp_path: Path) -> None:
    names = ["枣/1.png", "山楂/1.png", "苹果/1.png"]
    bundle = read_bundle(packed_on_a_chinese_windows(tmp_path / "b.zip", names))
    assert list(bundle.class_indices) == sorted(["枣", "山楂", "苹果"])
    note = bundle.notes[0]
    assert (note.kind, note.example) == (NoteKind.CODE_PAGE, "枣/1.png")
    assert "GBK" in note.sentence


def test_names_that_were_unpacked_with_the_wrong_code_page_are_restored(tmp_path: Path) -> None:
    garbled = {f"{name.encode('gbk').decode('cp437')}/1.png": marked(5) for name in ("山楂", "枣", "无花果")}
    bundle = read_bundle(zipped(tmp_path / "b.zip", garbled))
    assert list(bundle.class_indices) == ["山楂", "无花果", "枣"]
    assert bundle.notes[0].kind is NoteKind.CODE_PAGE


def test_letters_are_composed_before_names_are_sorted_or_looked_up(tmp_path: Path) -> None:
    decomposed = {"e\u0301te\u0301/1.png": marked(1), "fall/1.png": marked(2), "ete/1.png": marked(3)}
    bundle = read_bundle(zipped(tmp_path / "b.zip", decomposed))
    assert list(bundle.class_indices) == ["ete", "fall", "été"]
    declared = {"bundle.json": '{"classes": ["été", "ete", "fall"]}'}
    assert read_bundle(zipped(tmp_path / "c.zip", decomposed | declared)).class_indices["été"] == 0


def test_a_tar_file_of_utf8_names_has_no_code_page_to_tell(tmp_path: Path) -> None:
    bundle = read_bundle(tarred(tmp_path / "b.tar.gz", {"山楂/1.png": marked(1), "枣/1.png": marked(2)}))
    assert list(bundle.class_indices) == ["山楂", "枣"]
    assert NoteKind.CODE_PAGE not in {note.kind for note in bundle.notes}

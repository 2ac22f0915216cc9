"""What an engine leaves is taken with care: by name, without following links, within a size, in the right shape."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.core.findings import FirstPass
from app.core.jobs import JobDirectory
from app.core.report.figures import SIGNATURE, png_bytes, trigger_strip
from tests import factories
from worker.sandbox.cell import Cell
from worker.sandbox.results import JSON_BYTES, UntrustworthyError

pytestmark = pytest.mark.real

SECRET = b"what another tenant uploaded"


@pytest.fixture
def directory(tmp_path: Path) -> JobDirectory:
    directory = JobDirectory(tmp_path / "job")
    directory.result.mkdir(parents=True)
    for name in ("job.json", "model.pt", "bundle.npz"):
        (directory.root / name).write_bytes(name.encode())
    return directory


@pytest.fixture
def cell(directory: JobDirectory) -> Cell:
    cell = Cell(directory)
    cell.furnish()
    return cell


def there(cell: Cell) -> JobDirectory:
    """The job as an engine sees it."""
    return JobDirectory(cell.root)


def test_an_engine_finds_the_inputs_and_what_it_leaves_arrives(cell: Cell, directory: JobDirectory) -> None:
    assert there(cell).model.read_bytes() == b"model.pt" and there(cell).bundle.name == "bundle.npz"
    there(cell).write_preparation(factories.preparation(6))
    there(cell).write_finding(factories.finding(3))
    trigger = there(cell).trigger(3, "static")
    trigger.parent.mkdir()
    trigger.write_bytes(b"tensors")
    (cell.result / "notes.txt").write_text("nobody asked")
    cell.collect()
    assert directory.read_preparation() == factories.preparation(6)
    assert directory.read_findings() == [factories.finding(3)]
    assert directory.trigger(3, "static").read_bytes() == b"tensors"
    assert not (directory.result / "notes.txt").exists()


def test_what_an_earlier_engine_left_is_brought_and_only_what_changed_is_copied_again(
    cell: Cell, directory: JobDirectory
) -> None:
    directory.write_finding(factories.finding(1))
    directory.write_decision(factories.decision())
    directory.write_decision(factories.decision(1), round=1)
    directory.write_report({"not": "the engine's business"})
    cell.bring()
    assert there(cell).read_finding(1) == factories.finding(1)
    assert [there(cell).read_decision(round) for round in (0, 1)] == [factories.decision(), factories.decision(1)]
    assert not there(cell).report.exists()
    before = {path: path.stat().st_mtime_ns for path in directory.result.rglob("*.json")}
    cell.collect()
    cell.bring()
    assert {path: path.stat().st_mtime_ns for path in directory.result.rglob("*.json")} == before
    there(cell).write_finding(factories.finding(1, norm=0.25))
    cell.collect()
    assert directory.read_finding(1) == factories.finding(1, norm=0.25)


def test_a_second_engine_starts_from_what_was_collected_and_from_nothing_else(
    cell: Cell, directory: JobDirectory
) -> None:
    there(cell).write_finding(factories.finding(1))
    cell.collect()
    there(cell).write_finding(factories.finding(2))
    cell.furnish()
    cell.bring()
    assert [finding.label for finding in there(cell).read_findings()] == [1]


def link(cell: Cell, secret: Path) -> None:
    (cell.result / "start.safetensors").symlink_to(secret)


def linked_folder(cell: Cell, secret: Path) -> None:
    (secret.parent / "000001-static.safetensors").write_bytes(SECRET)
    (cell.result / "triggers").symlink_to(secret.parent)


def pipe(cell: Cell, secret: Path) -> None:
    os.mkfifo(cell.result / "preparation.json")


def folder_for_a_file(cell: Cell, secret: Path) -> None:
    (cell.result / "repaired.pt").mkdir()


def file_for_a_folder(cell: Cell, secret: Path) -> None:
    (cell.result / "labels").write_text("no folder")


def endless_tensors(cell: Cell, secret: Path) -> None:
    with (cell.result / "repaired.pt").open("wb") as file:
        file.truncate(2**40)


def endless_record(cell: Cell, secret: Path) -> None:
    (cell.result / "preparation.json").write_bytes(b" " * (JSON_BYTES + 1))


def record_of(change: Callable[[dict[str, Any]], object]) -> Callable[[Cell, Path], None]:
    """A finding of label 3 with something changed in it."""

    def leave(cell: Cell, secret: Path) -> None:
        there(cell).write_finding(factories.finding(3))
        path = there(cell).finding(3)
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return leave


def preparation_of(**changes: object) -> Callable[[Cell, Path], None]:
    """A preparation with something changed in it."""

    def leave(cell: Cell, secret: Path) -> None:
        document = asdict(factories.preparation(6)) | changes
        (cell.result / "preparation.json").write_text(json.dumps(document))

    return leave


def picture(png: bytes) -> Callable[[Cell, Path], None]:
    """A picture of a trigger, with this in its file."""

    def leave(cell: Cell, secret: Path) -> None:
        path = there(cell).strip(1, "static")
        path.parent.mkdir()
        path.write_bytes(png)

    return leave


def part(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def parts_of(png: bytes) -> list[bytes]:
    parts, place = [], len(SIGNATURE)
    while place < len(png):
        end = place + 12 + struct.unpack_from(">I", png, place)[0]
        parts.append(png[place:end])
        place = end
    return parts


STRIP = png_bytes(trigger_strip(np.zeros((1, 8, 8, 1)), np.ones((1, 8, 8, 1))))
HEADER, TEXT, PIXELS, END = parts_of(STRIP)
IMMENSE = part(b"IHDR", struct.pack(">II", 2**20, 2**20) + HEADER[16:21])


def pickle_for_weights(cell: Cell, secret: Path) -> None:
    torch.save({"weight": 1}, cell.result / "repaired.pt")


def no_json(cell: Cell, secret: Path) -> None:
    (cell.result / "repair.json").write_text("{" * 10_000)


def scores_of(labels: tuple[int, ...], scores: tuple[float, ...]) -> Callable[[Cell, Path], None]:
    def leave(cell: Cell, secret: Path) -> None:
        there(cell).write_first_pass(FirstPass(labels, {"dynamic": scores}))
        there(cell).first_pass(labels[0]).rename(there(cell).first_pass(3))

    return leave


HOSTILE = {
    "a link to a file": link,
    "a link to a folder": linked_folder,
    "a pipe": pipe,
    "a folder in a file's place": folder_for_a_file,
    "a file in a folder's place": file_for_a_folder,
    "a terabyte of tensors": endless_tensors,
    "a megabyte of record": endless_record,
    "no JSON": no_json,
    "another label's finding": record_of(lambda finding: finding.update(label=4)),
    "a finding with a part missing": record_of(lambda finding: finding.pop("families")),
    "text for a number": record_of(lambda finding: finding["families"][0].update(norm="small")),
    "no finite number": record_of(lambda finding: finding["families"][0].update(norm=float("nan"))),
    "an endless number": record_of(lambda finding: finding["families"][0].update(loss=float("inf"))),
    "a million labels": preparation_of(num_labels=10**6),
    "fewer labels than none": preparation_of(num_labels=-1),
    "no labels at once": preparation_of(labels_at_once=0),
    "fewer images at once than none": preparation_of(images_at_once=-1),
    "a search that gives memory": preparation_of(search_bytes=-(2**30)),
    "weights that are a pickle": pickle_for_weights,
    "a picture that is none": picture(b"PK\3\4" + bytes(99)),
    "a picture of a terabyte": picture(SIGNATURE + IMMENSE + TEXT + PIXELS + END),
    "a picture with half a header": picture(SIGNATURE + part(b"IHDR", bytes(4)) + TEXT + PIXELS + END),
    "a picture that carries something": picture(SIGNATURE + HEADER + TEXT + part(b"prVt", b"more") + PIXELS + END),
    "a picture with a damaged part": picture(SIGNATURE + HEADER + TEXT + PIXELS[:-4] + bytes(4) + END),
    "half a picture": picture(SIGNATURE + HEADER + TEXT + PIXELS),
    "a picture that says no amplification": picture(SIGNATURE + HEADER + part(b"tEXt", b"a\0b") + PIXELS + END),
    "scores of another block": scores_of((4, 5), (0.1, 0.2)),
    "scores of a label that comes twice": scores_of((3, 3), (0.1, 0.2)),
    "fewer scores than labels": scores_of((3, 4), (0.1,)),
    "an object for a name": record_of(lambda finding: finding.update(name={"a": 1})),
}


@pytest.mark.parametrize("leave", HOSTILE.values(), ids=HOSTILE)
def test_nothing_is_taken_that_is_not_as_our_engine_leaves_it(
    leave: Callable[[Cell, Path], None], cell: Cell, directory: JobDirectory, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    secret = tmp_path / "elsewhere" / "secret"
    secret.write_bytes(SECRET)
    leave(cell, secret)
    with pytest.raises(UntrustworthyError):
        cell.collect()
    taken = [path for path in directory.result.rglob("*") if path.is_file()]
    assert taken == [] and secret.read_bytes() == SECRET


def test_a_record_is_kept_as_it_was_understood_and_nothing_else_of_it(cell: Cell, directory: JobDirectory) -> None:
    there(cell).write_finding(factories.finding(3))
    path = there(cell).finding(3)
    document = json.loads(path.read_text())
    document |= {"verdict": "no_backdoor_found", "label": "3"}
    document["families"][0] |= {"norm": "0.1", "__class__": "os.system"}
    path.write_text(json.dumps(document))
    cell.collect()
    assert directory.read_finding(3) == factories.finding(3)
    assert "verdict" not in directory.finding(3).read_text() and "__class__" not in directory.finding(3).read_text()


def test_folders_without_end_are_as_good_as_a_full_disk_and_go_with_the_cell(cell: Cell) -> None:
    os.makedirs(cell.result / "/".join("d" * 8))
    assert cell.size() == float("inf")
    cell.remove()
    assert not cell.root.exists()


def test_what_is_brought_is_not_written_through_a_link(cell: Cell, directory: JobDirectory, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (cell.result / "labels").symlink_to(elsewhere)
    (cell.result / "decision.json").symlink_to(elsewhere / "decision.json")
    directory.write_decision(factories.decision())
    cell.bring()
    assert there(cell).read_decision() == factories.decision(), "the link itself is replaced"
    directory.write_finding(factories.finding(1))
    with pytest.raises(UntrustworthyError):
        cell.bring()
    assert list(elsewhere.iterdir()) == []


def test_what_lies_there_is_measured_without_following_links(cell: Cell, tmp_path: Path) -> None:
    before = cell.size()
    (tmp_path / "large").write_bytes(bytes(2**22))
    (cell.result / "link").symlink_to(tmp_path / "large")
    assert cell.size() - before < 2**20
    (cell.result / "deep" / "deeper").mkdir(parents=True)
    (cell.result / "deep" / "deeper" / "large").write_bytes(bytes(2**22))
    assert cell.size() - before >= 2**22

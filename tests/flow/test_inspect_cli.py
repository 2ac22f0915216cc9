"""`triggerlens inspect`: what is in a file, in words, as JSON and as SARIF, and an exit code for each answer."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from sarif_kit.validate import validation_errors
from torch import Tensor, nn

from app.cli import main
from app.cli.describing import MOST_ROWS, tree_rows
from tests.core.intake.torchscript.hostile_code import hooked
from tests.core.intake.torchscript.zips import Entry, read_entries, write_zip
from tests.evasive_nets import ComparesCorner

NOTHING_FOUND, FOUND, USAGE, UNSUPPORTED, REFUSED = 0, 1, 2, 3, 4
IMAGES = torch.zeros(2, 3, 8, 8)
ESCAPES = "\x1b]0;mine\x07"

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"), pytest.mark.real]


class Saves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "stolen")
        return x


class Counts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.bincount(x.flatten().long())


class Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def scripted(net: nn.Module, folder: Path, **extra_files: str) -> Path:
    path = folder / "net.pt"
    torch.jit.script(net).save(str(path), _extra_files=extra_files)
    return path


def inspect(*arguments: object) -> Result:
    done = CliRunner().invoke(main, ["inspect", *map(str, arguments)])
    assert "Traceback" not in done.stderr
    return done


def told(*arguments: object) -> dict[str, Any]:
    done = inspect(*arguments, "--json")
    assert done.stderr == "", "the result is on stdout, and nothing is elsewhere"
    document: dict[str, Any] = json.loads(done.stdout)
    return document


# What is understood


def test_what_is_in_a_file_is_told_to_people(tmp_path: Path) -> None:
    path = scripted(small_net(), tmp_path)
    done = inspect(path)
    assert (done.exit_code, done.stdout) == (NOTHING_FOUND, ""), "words for people go to stderr"
    assert "Understood" in done.stderr and hashlib.sha256(path.read_bytes()).hexdigest() in done.stderr
    assert "(input: Tensor) -> Tensor" in done.stderr
    assert "845 in 6 tensors (float32 3.3 kB)" in done.stderr
    assert "BatchNorm2d" in done.stderr and "aten::conv2d 1" in done.stderr


def test_the_same_is_told_to_programs(tmp_path: Path) -> None:
    path = scripted(small_net(), tmp_path, **{"labels.txt": "cat"})
    document = told(path)
    assert document["name"] == "net.pt" and document["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert document["forward"] == {"inputs": [{"name": "input", "type": "Tensor"}], "returns": "Tensor"}
    assert document["parameters"] == {"tensors": 6, "items": 845, "bytes": {"float32": 3380}}
    assert document["extra_files"] == ["extra/labels.txt"]
    tree = document["modules"]
    assert (tree["class"], tree["parameters"]) == ("Sequential", 845)
    parts = [(part["name"], part["class"], part["parameters"]) for part in tree["parts"]]
    assert parts == [
        ("0", "Conv2d", 112),
        ("1", "BatchNorm2d", 8),
        ("2", "ReLU", 0),
        ("3", "Flatten", 0),
        ("4", "Linear", 725),
    ]


FORMS: dict[str, tuple[Callable[[], torch.jit.ScriptModule], list[str]]] = {
    "scripted": (lambda: torch.jit.script(small_net()), ["scripted"]),
    "traced": (lambda: torch.jit.trace(small_net(), IMAGES), ["traced"]),
    "frozen": (lambda: torch.jit.freeze(torch.jit.script(small_net())), ["frozen"]),
    "half": (lambda: torch.jit.script(small_net().half()), ["scripted", "half precision"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_way_of_the_export_is_told(form: str, tmp_path: Path) -> None:
    export, words = FORMS[form]
    export().save(str(tmp_path / "net.pt"))
    assert told(tmp_path / "net.pt")["exported"] == words
    assert ", ".join(words) in inspect(tmp_path / "net.pt").stderr


def test_what_is_shared_counts_once(tmp_path: Path) -> None:
    path = scripted(Shares(), tmp_path)
    tree = told(path)["modules"]
    assert tree["parameters"] == 16 and [part["shared"] for part in tree["parts"]] == [False, True]
    assert "shared with an earlier part" in inspect(path).stderr


def test_no_torch_is_imported(tmp_path: Path) -> None:
    path = scripted(small_net(), tmp_path)
    code = "import sys; from app.cli import main; main(['inspect', sys.argv[1]], standalone_mode=False)"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False" and "Understood" in done.stderr


# The tree for people


def part(name: str, kind: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "class": kind, "shared": False, "parameters": 7, "parts": list(parts)}


def test_neighbours_that_are_alike_share_a_line() -> None:
    blocks = [part(str(number), "Block", part("conv", "Conv2d")) for number in range(12)]
    rows = tree_rows(part("", "Net", *blocks, part("12", "Linear")))
    assert rows == [
        ("model", "Net", "7"),
        ("  0 to 11", "Block", "12 x 7"),
        ("    conv", "Conv2d", "7"),
        ("  12", "Linear", "7"),
    ]


def test_deep_parts_are_counted_where_there_is_no_room_for_them() -> None:
    def branch(kind: str) -> dict[str, Any]:
        return part(kind, kind, *(part(str(number), f"{kind}{number}") for number in range(20)))

    rows = tree_rows(part("", "Net", branch("A"), branch("B"), branch("C")))
    assert rows[1:] == [("  A", "A, 20 parts", "7"), ("  B", "B, 20 parts", "7"), ("  C", "C, 20 parts", "7")]


def test_a_level_that_is_too_wide_is_cut() -> None:
    rows = tree_rows(part("", "Net", *(part(str(number), f"K{number}") for number in range(100))))
    assert len(rows) == MOST_ROWS + 1 and rows[-1] == ("  and 61 more", "", "")


# What is found in the code


def test_code_that_no_search_could_see_through_is_told_with_its_line(tmp_path: Path) -> None:
    path = scripted(ComparesCorner(small_net()).eval(), tmp_path)
    done = inspect(path)
    assert done.exit_code == FOUND
    told_to_people = r"structure-gate[^/]*\n\s+code/\S+/evasive_nets(?:/___torch_mangle_\d+)?\.py:\d+\n\s+.*torch\.gt\("
    assert re.search(told_to_people, done.stderr)
    assert "docs/structure.md" in done.stderr and "with findings" in done.stderr
    (found,) = told(path)["findings"]
    assert (found["rule"], found["blocks"], found["reason"]) == ("structure-gate", True, "data_dependent_control_flow")


# What is refused


def test_an_operator_that_is_not_known_is_named_with_its_place(tmp_path: Path) -> None:
    path = scripted(Counts(), tmp_path)
    done = inspect(path)
    assert done.exit_code == UNSUPPORTED
    assert "aten::bincount" in done.stderr and "Rule operator-unknown" in done.stderr
    assert re.search(r"member code/\S+/test_inspect_cli\.py; line \d+$", done.stderr, re.MULTILINE)
    assert told(path)["code"] == "unsupported_operator"


@pytest.mark.parametrize(
    ("net", "rule"), [(Saves(), "code-forbidden-operator"), (hooked(True), "code-hook")], ids=["saves", "hook"]
)
def test_code_that_reaches_out_is_refused_with_its_place(net: nn.Module, rule: str, tmp_path: Path) -> None:
    path = scripted(net, tmp_path)
    done = inspect(path)
    assert done.exit_code == REFUSED and f"Rule {rule}, see docs/gate.md" in done.stderr
    problem = told(path)
    assert (problem["code"], problem["rule"], problem["title"]) == ("unsafe_code", rule, "The model was refused")
    assert problem["member"].startswith("code/") and problem["line"] > 0


@pytest.mark.parametrize("name", ["net/../../evil.py", "/etc/cron.d/evil", "net/data.pkl"])
def test_a_broken_archive_is_refused_by_the_rule_of_the_gate(name: str, tmp_path: Path) -> None:
    path = scripted(small_net(), tmp_path)
    path.write_bytes(write_zip([*read_entries(path.read_bytes()), Entry(name, b"harmless")]))
    problem = told(path)
    assert (problem["code"], problem["rule"]) == (
        "malformed_archive",
        "zip-duplicate" if name == "net/data.pkl" else "zip-name",
    )


def test_something_before_the_archive_is_refused_by_the_rule_of_the_gate(tmp_path: Path) -> None:
    path = scripted(small_net(), tmp_path)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert told(path)["rule"] in ("zip-prefix", "zip-end")


OTHERS: dict[str, Callable[[Path], object]] = {
    "model_is_state_dict": lambda path: torch.save(small_net().state_dict(), path),
    "model_is_pickle": lambda path: torch.save(small_net(), path),
    "model_not_torchscript": lambda path: path.write_text("hello"),
    "model_empty": lambda path: path.touch(),
    "model_not_a_file": lambda path: path.mkdir(),
    "model_not_found": lambda path: None,
}


@pytest.mark.parametrize("code", OTHERS)
def test_a_file_that_is_no_archive_is_told_by_what_it_is(code: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    OTHERS[code](path)
    done = inspect(path)
    assert (done.exit_code, done.stdout) == (REFUSED, "") and "✗" in done.stderr
    problem = told(path)
    assert (problem["code"], problem["title"]) == (code, "The model was refused")
    log = json.loads(inspect(path, "--sarif").stdout)
    assert validation_errors(log) == [] and log["runs"][0]["results"][0]["ruleId"] == code


def test_a_file_cut_short_is_refused_at_any_length(tmp_path: Path) -> None:
    path = scripted(small_net(), tmp_path)
    whole = path.read_bytes()
    for length in range(1, len(whole), len(whole) // 20):
        path.write_bytes(whole[:length])
        done = inspect(path)
        assert done.exit_code == REFUSED and "✗" in done.stderr


def test_a_strangers_words_do_not_steer_the_terminal(tmp_path: Path) -> None:
    entries = read_entries(scripted(small_net(), tmp_path).read_bytes())
    path = tmp_path / f"[bold]net{ESCAPES}.pt"
    path.write_bytes(write_zip(entries))
    assert "\x1b" not in inspect(path).stderr and "[bold]net" in inspect(path).stderr
    path.write_bytes(write_zip([*entries, Entry(f"net/extra/[bold]{ESCAPES}", b"")]))
    refused = inspect(path)
    assert refused.exit_code == REFUSED and "\x1b" not in refused.stderr and "[bold]" in refused.stderr


# For code scanning


@pytest.mark.parametrize(
    ("net", "exit_code", "rules"),
    [
        (small_net(), NOTHING_FOUND, []),
        (ComparesCorner(small_net()).eval(), FOUND, ["structure-gate"]),
        (Counts(), UNSUPPORTED, ["operator-unknown"]),
        (Saves(), REFUSED, ["code-forbidden-operator"]),
    ],
    ids=["understood", "found", "unsupported", "refused"],
)
def test_sarif_is_on_stdout_with_the_same_exit_code(
    net: nn.Module, exit_code: int, rules: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scripted(net, tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    done = inspect(path.relative_to(tmp_path.parent), "--sarif")
    assert (done.exit_code, done.stderr) == (exit_code, "")
    log = json.loads(done.stdout)
    assert validation_errors(log) == []
    (run,) = log["runs"]
    assert [result["ruleId"] for result in run["results"]] == rules
    (artifact,) = run["artifacts"]
    assert artifact["location"]["uri"] == f"{tmp_path.name}/net.pt"
    assert artifact["hashes"] == {"sha-256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.mark.parametrize("arguments", [[], ["net.pt", "--json", "--sarif"], ["net.pt", "--nonsense"]])
def test_a_wrong_command_line_is_usage(arguments: list[str]) -> None:
    done = inspect(*arguments)
    assert (done.exit_code, done.stdout) == (USAGE, "") and "Usage" in done.stderr

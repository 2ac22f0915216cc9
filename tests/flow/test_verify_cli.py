"""`triggerlens verify`: its words, its exit codes, and nothing but JSON on stdout where that is asked for."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.core.jobs import STATEMENT, WEIGHTS
from tests.statements import placed, write


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return placed(tmp_path)


def verify(place: Path, *arguments: str) -> Result:
    said = [
        str(place / word) if word.startswith(("repaired", "ours", "theirs", "none")) else word for word in arguments
    ]
    return CliRunner().invoke(main, ["verify", *said])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((WEIGHTS[0], "--key", "ours.pub.pem"), 0, "Verified"),
        ((STATEMENT, "--key", "ours.pub.pem"), 0, "Verified"),
        ((WEIGHTS[0], "--key", "theirs.pub.pem"), 1, "The signature is not this key's"),
        ((WEIGHTS[0],), 3, "The digests agree, the signer is unknown: no key was given"),
        ((WEIGHTS[0], "--key", "none.pem"), 4, "cannot be used"),
        ((WEIGHTS[0], "--key", "ours.pem"), 4, "openssl pkey"),
        (("none.pt",), 4, "cannot be read"),
        ((), 2, "Missing argument"),
    ],
)
def test_each_outcome_has_its_words_and_its_exit_code(
    place: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = verify(place, *arguments)
    assert done.exit_code == code and words in " ".join(done.stderr.split()), done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_other_weights_and_an_unsigned_statement_are_told(place: Path) -> None:
    write(place, signed_by=None)
    unsigned = verify(place, WEIGHTS[1], "--key", "ours.pub.pem")
    assert unsigned.exit_code == 3 and "the statement is not signed" in unsigned.stderr
    (place / WEIGHTS[1]).write_bytes(b"other weights")
    other = verify(place, WEIGHTS[1])
    assert other.exit_code == 1 and "not the one that was stated" in other.stderr


def test_json_has_the_outcome_or_the_problem_on_stdout(place: Path) -> None:
    found = json.loads(verify(place, WEIGHTS[0], "--key", "ours.pub.pem", "--json").stdout)
    assert found["outcome"] == "verified" and found["is_signed"] and len(found["files"]) == 2
    assert found["stated"]["suspect"] == {"name": "net.pt", "digest": {"sha256": "3f" * 32}}
    (place / STATEMENT).write_text("{}")
    refused = verify(place, WEIGHTS[0], "--json")
    assert refused.exit_code == 4 and json.loads(refused.stdout)["code"] == "no_statement"


def test_a_key_that_cannot_sign_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    asked = ["scan", "model.pt", "bundle.zip", "--signing-key", str(tmp_path / "none.pem"), "--json"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 4 and json.loads(done.stdout)["code"] == "signing_key_unusable"

"""The statement beside repaired weights: what is checked holds, and no other file, key or word passes for it."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import Refusal
from app.core.jobs import STATEMENT, WEIGHTS
from app.core.statement import read_public_key, read_signer
from app.core.verification import Outcome, verify
from tests.statements import OURS, placed, private_pem, public_pem, write


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return placed(tmp_path)


def outcome(place: Path, file: str = WEIGHTS[0], key: str | None = "ours") -> Outcome:
    return verify(place / file, read_public_key(place / f"{key}.pub.pem") if key else None).outcome


@pytest.mark.parametrize("file", [*WEIGHTS, STATEMENT])
def test_the_weights_that_were_stated_are_verified_by_the_key_that_signed(place: Path, file: str) -> None:
    found = verify(place / file, read_public_key(place / "ours.pub.pem"))
    assert found.outcome is Outcome.VERIFIED and found.is_signed and found.not_here == ()
    assert {Path(one.path).name for one in found.files} == set(WEIGHTS) and all(one.agrees for one in found.files)
    assert found.stated.suspect.digest.sha256 == "3f" * 32 and found.stated.data.digest.sha256 == "b0" * 32
    assert (found.stated.labels, found.stated.seed, found.stated.preset) == ([7], 7, "standard")


def test_it_is_an_in_toto_statement_in_a_dsse_envelope(place: Path) -> None:
    """By the words of both specifications, so that other tools can read it."""
    (line,) = (place / STATEMENT).read_text().splitlines()
    envelope = json.loads(line)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    OURS.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), encoded)
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert [subject["name"] for subject in statement["subject"]] == list(WEIGHTS)
    assert statement["predicate"]["repair"]["attack_success_rate_after"] == 0.012
    assert "files" not in statement["predicate"]["repair"], "the subjects have their digests"


def test_without_a_key_or_a_signature_the_digests_agree_and_the_signer_is_unknown(place: Path) -> None:
    assert outcome(place, key=None) is Outcome.SIGNER_UNKNOWN
    write(place, signed_by=None)
    assert outcome(place) is outcome(place, key=None) is Outcome.SIGNER_UNKNOWN


def test_a_signature_of_somebody_else_is_not_this_key_s(place: Path) -> None:
    assert outcome(place, key="theirs") is Outcome.NOT_THIS_KEY


@pytest.mark.parametrize("key", ["ours", None])
@pytest.mark.parametrize("changed", WEIGHTS)
@pytest.mark.parametrize("file", [*WEIGHTS, STATEMENT])
def test_weights_that_were_changed_are_not_those_that_were_stated(
    place: Path, file: str, changed: str, key: str | None
) -> None:
    (place / changed).write_bytes(b"other weights")
    assert outcome(place, file, key) is Outcome.NOT_STATED


def test_a_statement_that_was_changed_is_not_signed_by_anybody(place: Path) -> None:
    envelope = json.loads((place / STATEMENT).read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b'"seed": 7', b'"seed": 8')
    (place / STATEMENT).write_text(json.dumps(envelope | {"payload": base64.b64encode(payload).decode()}))
    assert outcome(place) is Outcome.NOT_THIS_KEY


def test_the_id_of_a_key_is_a_hint_and_proves_nothing(place: Path) -> None:
    envelope = json.loads((place / STATEMENT).read_text())
    (signature,) = envelope["signatures"]
    for keyid in ("", read_public_key(place / "theirs.pub.pem").keyid):
        (place / STATEMENT).write_text(json.dumps(envelope | {"signatures": [signature | {"keyid": keyid}]}))
        assert outcome(place) is Outcome.VERIFIED and outcome(place, key="theirs") is Outcome.NOT_THIS_KEY


def test_weights_are_known_under_any_name_and_what_is_not_there_is_told(place: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "models"
    elsewhere.mkdir()
    (place / WEIGHTS[0]).rename(elsewhere / "production.pt")
    found = verify(elsewhere / "production.pt", read_public_key(place / "ours.pub.pem"), place / STATEMENT)
    assert found.outcome is Outcome.VERIFIED and found.not_here == ()
    (place / WEIGHTS[1]).unlink()
    assert verify(elsewhere / "production.pt", None, place / STATEMENT).not_here == (WEIGHTS[1],)


def test_what_cannot_be_read_is_refused(place: Path) -> None:
    for file, code in (("none.pt", "weights_not_found"), ("none.intoto.jsonl", "statement_not_found")):
        with pytest.raises(Refusal) as refused:
            verify(place / file, None)
        assert refused.value.problem.code == code
    for name in WEIGHTS:
        (place / name).unlink()
    with pytest.raises(Refusal) as refused:
        verify(place / STATEMENT, None)
    assert refused.value.problem.code == "weights_not_found"


def test_a_statement_about_something_else_is_refused(place: Path) -> None:
    envelope = json.loads((place / STATEMENT).read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b"urn:triggerlens:repair:1", b"https://slsa.dev/p/v1")
    other = json.dumps(envelope | {"payload": base64.b64encode(payload).decode()})
    for content in (other, "", "{}", "[]", other + other, "[" * 100_000, "{" + " " * 2**23 + "}"):
        (place / STATEMENT).write_text(content)
        with pytest.raises(Refusal) as refused:
            verify(place / WEIGHTS[0], None)
        assert refused.value.problem.code == "no_statement"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_statement_is_refused_or_proves_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = placed(tmp_path_factory.mktemp("damaged"))
    content = bytearray((place / STATEMENT).read_bytes())
    was = payload_of(content)
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (place / STATEMENT).write_bytes(content)
    try:
        found = outcome(place)
    except Refusal:
        return
    assert found is not Outcome.VERIFIED or payload_of(content) == was


def payload_of(line: bytes | bytearray) -> bytes:
    """What is signed; each of base64's two alphabets is read."""
    payload: str = json.loads(line)["payload"]
    return base64.b64decode(payload.replace("-", "+").replace("_", "/"))


def test_keys_that_cannot_be_used_say_what_to_do(place: Path) -> None:
    curve = generate_private_key(SECP256R1())
    unusable = {
        "none.pem": None,
        "text.pem": b"a key",
        "curve.pem": private_pem(curve),
        "locked.pem": private_pem(OURS, b"secret"),
    }
    for name, content in unusable.items():
        if content is not None:
            (place / name).write_bytes(content)
        with pytest.raises(Refusal) as refused:
            read_signer(place / name)
        assert refused.value.problem.code == "signing_key_unusable" and name in refused.value.problem.detail
    (place / "curve.pub.pem").write_bytes(public_pem(curve))
    for name in ("none.pub.pem", "ours.pem", "curve.pub.pem"):
        with pytest.raises(Refusal) as refused:
            read_public_key(place / name)
        assert refused.value.problem.code == "public_key_unusable"

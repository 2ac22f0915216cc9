"""Whether repaired weights are those that somebody states, and whose statement it is: read here, without a service."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app import terminal
from app.cli.endings import ending_well, print_json
from app.cli.options import as_json_option

if TYPE_CHECKING:  # the libraries that sign take half a second to import
    from app.core.verification import Verification

EXIT_CODES = {"verified": 0, "not_this_key": 1, "not_stated": 1, "signer_unknown": 3}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), help="Public key of whoever signed, Ed25519 in PEM.")
@click.option("--statement", type=click.Path(path_type=Path), help="[default: repaired.intoto.jsonl beside FILE]")
@as_json_option
def verify(file: Path, key: Path | None, statement: Path | None, as_json: bool) -> None:
    """Check repaired weights against the statement beside them.

    FILE is the weights, or the statement. Exit code 0: verified; 1: the file or the signature is another one; 3: the
    digests agree, but who says so is unknown; 4: unreadable.
    """
    with ending_well(as_json):
        from app.core.statement import read_public_key
        from app.core.verification import verify as verify_file

        found = verify_file(file, read_public_key(key) if key else None, statement)
        if as_json:
            print_json(asdict(found) | {"stated": found.stated.model_dump()})
        else:
            _show(found)
        sys.exit(EXIT_CODES[found.outcome])


COMMANDS = (verify,)


def _show(found: "Verification") -> None:
    words = {
        "verified": "Verified: these are the weights that were stated, and this key signed it.",
        "not_this_key": "The signature is not this key's, or the statement was changed after it was signed.",
        "not_stated": "The file is not the one that was stated: it was changed, or the statement is about another.",
        "signer_unknown": "The digests agree, the signer is unknown: "
        + ("no key was given to check the signature with." if found.is_signed else "the statement is not signed."),
    }
    terminal.say(words[found.outcome])
    for one in found.files:
        terminal.say(f"  {one.path} {'agrees' if one.agrees else 'does not agree'}: sha256 {one.sha256}")
    for name in found.not_here:
        terminal.say(f"  {name} is stated too, but is not here")
    stated = found.stated
    terminal.show_facts(
        {
            "repaired from": f"{stated.suspect.name}, sha256 {stated.suspect.digest.sha256}",
            "with images": f"{stated.data.name}, sha256 {stated.data.digest.sha256}",
            "unlearned": f"the triggers of {'labels' if len(stated.labels) > 1 else 'label'} "
            + ", ".join(map(str, stated.labels)),
            "by": f"engine {stated.engine}, preset {stated.preset}, seed {stated.seed}",
        }
    )

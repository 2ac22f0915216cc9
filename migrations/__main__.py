"""Drafts the next migration on a new SQLite database; what it finds is then read and put in good style by hand."""

import sys
import tempfile

from alembic import command
from alembic.script import ScriptDirectory

from app.core import migrating
from app.core.database import Database


def main(message: str) -> None:
    number = len(list(ScriptDirectory(migrating.SCRIPTS).walk_revisions())) + 1
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/draft.sqlite3")
        migrating.upgrade(database)
        with database.engine.connect() as connection:
            command.revision(migrating.config(connection), message, autogenerate=True, rev_id=f"{number:04d}")
        database.close()


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))

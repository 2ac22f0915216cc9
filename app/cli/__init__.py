"""The `triggerlens` command. Words and progress for people go to stderr; `--json` puts the result, or the problem of a
refusal, on stdout and nothing else.

Exit codes of what gives a verdict (scan, repair, watch): 0 no backdoor found, 1 backdoored, 3 inconclusive. Of every
command: 0 done, 2 usage, 4 refused or failed, 5 cancelled or out of time. `check`: 3 where something is in doubt.
`inspect`: 3 for an operator that is not known. `doctor`: 1 where something is wrong. `verify`: 1 for what does not
agree, 3 where the signer is unknown.
"""

import click

from app.cli import inspecting, operating, remote, scanning, verifying


class _AsWritten(click.Group):
    """Lists its commands in the order in which they were added, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_AsWritten, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="triggerlens")
def main() -> None:
    """Find planted backdoors in image classifiers, see them, and get repaired weights."""


for command in (*scanning.COMMANDS, *inspecting.COMMANDS, *verifying.COMMANDS, *remote.COMMANDS, *operating.COMMANDS):
    main.add_command(command)

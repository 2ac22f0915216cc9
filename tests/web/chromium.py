"""Where Chromium is. `.ci/run` asks too, before anything is installed: nothing but the standard library is needed.

Ubuntu's `chromium-browser` is a stub for a snap, and a snap has a /tmp of its own: it sees no file that a test makes.
"""

import shutil
import subprocess
import sys

ADVICE = (
    "apt-get install chromium. Ubuntu has it as a snap only, which sees no files of the tests: "
    "there, install Google Chrome (google-chrome-stable), or Chromium from a repository that has it as a .deb"
)
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The path of a browser that runs and is no snap."""
    return next((path for name in NAMES if (path := shutil.which(name)) and _is_real(path)), None)


def _is_real(path: str) -> bool:
    said = subprocess.run([path, "--version"], capture_output=True, text=True)
    return said.returncode == 0 and "snap" not in said.stdout  # "Chromium 142.0.7444.59 snap"


if __name__ == "__main__":
    sys.exit(0 if chromium() else f"The tests need Chromium: {ADVICE}.")

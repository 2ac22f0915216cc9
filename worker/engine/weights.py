"""`python -m worker.engine.weights [fetch]`: which perceptual backbone a scan would use, or fetch the genuine one."""

import sys

from app.core.errors import Refusal
from models.perceptual import fetch_backbone, find_backbone


def main() -> int:
    try:
        if sys.argv[1:] == ["fetch"]:
            print(f"fetched {fetch_backbone()}")
        backbone = find_backbone()
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 4
    print(f"{backbone.name} ({backbone.source}): {backbone.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What an engine lays upon itself before it sees a stranger's model, and cannot lift again: limits of the system."""

import resource

FILE_BYTES = 8 * 2**30  # of one file
OPEN_FILES = 1024


def lower() -> None:
    """No core dumps, no endless files, not all descriptors there are."""
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        hard = resource.getrlimit(limit)[1]
        lowered = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (lowered, lowered))

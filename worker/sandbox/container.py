"""What a container has to allow so that bubblewrap can put up its fence in it, as a seccomp profile for Docker.

    python -m worker.sandbox.container > worker/sandbox/container.json       (docker-compose.yml names the file)

Docker's own profile denies namespaces and mounts to who has no rights, and those are what the fence is made of. This
one allows them, and denies what no worker needs by the list that engines are held to.
"""

import json
from typing import Any

from worker.sandbox.seccomp import AUDIT, DENIED

SERVER = {
    "socket",
    "socketpair",
    "connect",
    "accept",
    "bind",
    "listen",
    "accept4",
    "fork",
    "vfork",
}  # the worker is one
FENCE = {"unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "sethostname"}
REFUSED = sorted(set(DENIED) - SERVER - FENCE)


def profile() -> dict[str, Any]:
    """What is allowed is not listed: bubblewrap's filter behind it is the narrow one."""
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [f"SCMP_ARCH_{machine.upper()}" for machine in AUDIT],
        "syscalls": [{"names": REFUSED, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }


if __name__ == "__main__":
    print(json.dumps(profile(), indent=1))

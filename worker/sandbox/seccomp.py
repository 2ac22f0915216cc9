"""The system calls that a fenced engine may not make, as a program for the kernel (classic BPF, seccomp(2)).

An engine computes: it needs no network, no other processes, no mounts, keys, modules or tracing. A list of what is
denied, not of what is allowed, because what torch and the drivers below it call changes with every version; the empty
namespaces around it are the other wall. Denied calls fail as if a right were missing, so nothing has to die of them.
"""

import errno
import struct
from collections.abc import Collection

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, FAIL, KILL = 0x7FFF0000, 0x00050000, 0x80000000  # with an error number in FAIL's lower half
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # places in struct seccomp_data, little-endian
CLONE_THREAD = 0x00010000
X32 = 0x40000000  # the second set of numbers on x86_64

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # names of the architectures, linux/audit.h
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435  # its flags lie in memory that can change; C libraries fall back to clone

# On x86_64 and on aarch64; None where the call does not exist. Since 2019 all architectures share new numbers.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "accept": (43, 202),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept4": (288, 242),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_secret": (447, 447),
}


def program(machine: str, names: Collection[str] = DENIED.keys()) -> bytes:
    """The filter for `platform.machine()`, as bubblewrap reads it; KeyError for a machine that we have no numbers of.

    Where fork is denied, threads may be started and processes may not.
    """
    architecture, column = AUDIT[machine], list(AUDIT).index(machine)
    numbers = [DENIED[name][column] for name in names]
    code = [_step(LOAD, ARCHITECTURE), _step(EQUAL, architecture, 1, 0), _step(RETURN, KILL), _step(LOAD, NUMBER)]
    if machine == "x86_64":
        code += _if(AT_LEAST, X32, [_step(RETURN, KILL)])
    for number in numbers:
        if number is not None:
            code += _if(EQUAL, number, [_step(RETURN, FAIL | errno.EPERM)])
    if "fork" in names:
        code += _if(EQUAL, CLONE3, [_step(RETURN, FAIL | errno.ENOSYS)])
        thread = _if(ANY_BIT, CLONE_THREAD, [_step(RETURN, ALLOW)])
        code += _if(EQUAL, CLONE[machine], [_step(LOAD, FIRST_ARGUMENT), *thread, _step(RETURN, FAIL | errno.EPERM)])
    return b"".join([*code, _step(RETURN, ALLOW)])


def _if(test: int, value: int, then: list[bytes]) -> list[bytes]:
    """Do something where the test holds of what was loaded, else go on behind it."""
    return [_step(test, value, 0, len(then)), *then]


def _step(code: int, value: int, jump: int = 0, otherwise: int = 0) -> bytes:
    """struct sock_filter: the code, how far to jump where a test holds and where it does not, a value."""
    return struct.pack("<HBBI", code, jump, otherwise, value)

"""What a process takes from itself before it runs code that nobody vouches for: Landlock, a system call filter, limits."""

from __future__ import annotations

import ctypes
import os
import resource
import struct

from workers.sandbox.inside.kernel import MACHINE, called, libc, no_new_privileges, prctl

DISK_MB = 64
INODES = 4096
OPEN_FILES = 64
THREADS = 32
_SET_SECCOMP, _FILTER = 22, 2
_ARENA_MAX = -8

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Both columns are in the order of _ARCHITECTURES; -1: the machine has no such call.
_FORBIDDEN = {
    "socket": (41, 198), "execve": (59, 221), "execveat": (322, 281), "fork": (57, -1), "vfork": (58, -1),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "fanotify_init": (300, 262),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "reboot": (169, 142),
    "swapon": (167, 224), "personality": (135, 92), "syslog": (103, 116), "sethostname": (170, 161),
    "acct": (163, 89), "quotactl": (179, 60), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "modify_ldt": (154, -1), "iopl": (172, -1), "ioperm": (173, -1),
}  # fmt: skip
_CLONE, _CLONE3, _PRCTL, _PDEATHSIG = (56, 220), 435, (157, 167), 1
_CLONE_THREAD = 0x10000
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38


def _program() -> list[tuple[int, int, int, int]]:
    """The filter: classic BPF over (number, architecture, …, arguments). Threads may be made, processes not."""
    column = list(_ARCHITECTURES).index(MACHINE)
    program = [
        (_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCHITECTURES[MACHINE]), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | _ENOSYS),  # its flags are out of reach; libc falls back on clone
        (_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, 16), (_BITS, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | _EPERM), (_RETURN, 0, 0, _ALLOW),
        # A process that outlives its launcher would outlive every limit.
        (_EQUAL, 0, 4, _PRCTL[column]), (_LOAD, 0, 0, 16), (_EQUAL, 0, 1, _PDEATHSIG),
        (_RETURN, 0, 0, _ERRNO | _EPERM), (_RETURN, 0, 0, _ALLOW),
    ]  # fmt: skip
    for numbers in _FORBIDDEN.values():
        if numbers[column] >= 0:
            program += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def filter_calls() -> bool:
    """Forbid what no test needs: processes, programs, sockets, mounts, keys, tracing. False where the kernel has no filters."""
    if MACHINE not in _ARCHITECTURES:
        return False
    code = b"".join(struct.pack("=HBBI", *line) for line in _program())
    held = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(held)))
    try:
        prctl(_SET_SECCOMP, _FILTER, ctypes.addressof(header))
    except OSError:
        return False
    return True


_LANDLOCK_CREATE, _LANDLOCK_RULE, _LANDLOCK_RESTRICT = 444, 445, 446
_READ = 1 << 2 | 1 << 3
_WRITE = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 12
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_ALL_V1 = (1 << 13) - 1


def landlock() -> int:
    """Read below /, write below /tmp, no TCP, no signals or abstract sockets to others. The kernel's version; 0: it has none."""
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return 0
    newer = (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    handled = _ALL_V1 | newer | (_IOCTL if version >= 5 else 0)
    attributes = struct.pack("=Q", handled)
    attributes += struct.pack("=Q", 3) if version >= 4 else b""
    attributes += struct.pack("=Q", 3) if version >= 6 else b""
    rules = libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    called("landlock_create_ruleset", rules)
    for path, allowed in (("/", _READ), ("/tmp", _READ | _WRITE | newer), ("/dev/null", 1 << 1 | newer & _TRUNCATE)):  # noqa: S108
        fd = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", allowed, fd)
        called("landlock_add_rule", libc.syscall(_LANDLOCK_RULE, ctypes.c_int(rules), 1, rule, ctypes.c_uint32(0)))
        os.close(fd)
    called("landlock_restrict_self", libc.syscall(_LANDLOCK_RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0)))
    os.close(rules)
    return int(version)


def confine(memory_mb: int, seconds: float) -> dict[str, object]:
    """Give up what is left; what the kernel had to offer. The namespaces and the user are one's own already."""
    no_new_privileges()
    if hasattr(libc, "mallopt"):
        libc.mallopt(_ARENA_MAX, 1)  # else every thread reserves 64 MiB of the address space that is counted
    version = landlock()
    memory = memory_mb << 20
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_CPU: int(seconds) + 2,
        resource.RLIMIT_FSIZE: DISK_MB << 20,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_STACK: 8 << 20,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (most, most))
    filtered = filter_calls()
    # Without a filter threads and processes are the same to the kernel, so there are none of either.
    most = THREADS if filtered else 1
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    return {"landlock": version, "seccomp": filtered}

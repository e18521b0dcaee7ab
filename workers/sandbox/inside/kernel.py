"""The kernel's calls that Python does not wrap, and the empty root that a sandboxed process sees.

Linux, through ctypes. Everything raises `OSError` with the name of the call that failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

NEW_NS, NEW_CGROUP, NEW_UTS, NEW_IPC = 0x20000, 0x02000000, 0x04000000, 0x08000000
NEW_USER, NEW_PID, NEW_NET = 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _MOVE, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 8192, 16384, 1 << 18
_DETACH = 2
_PDEATHSIG, _SET_NO_NEW_PRIVS, _CAPBSET_DROP = 1, 38, 24
_LAST_CAPABILITY = 63
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MACHINE = os.uname().machine


def called(name: str, result: int) -> int:
    """The result of a call, or what it failed with."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, *values: int) -> None:
    """prctl(2)."""
    words = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    called(f"prctl {option}", libc.prctl(option, *words))


def die_with_parent() -> None:
    """SIGKILL when the parent is gone; a change of the uid undoes it."""
    prctl(_PDEATHSIG, 9)


def no_new_privileges() -> None:
    """No program that this process starts, setuid or not, may do more than it."""
    prctl(_SET_NO_NEW_PRIVS, 1)


def unshare(flags: int) -> None:
    """Namespaces of its own; the process namespace is that of the next child."""
    called("unshare", libc.unshare(flags))


def own_user_namespace(flags: int) -> None:
    """The same for an ordinary user, who is nobody inside."""
    uid, gid = os.getuid(), os.getgid()
    unshare(flags | NEW_USER)
    for name, line in (("setgroups", "deny"), ("uid_map", f"65534 {uid} 1"), ("gid_map", f"65534 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def drop_capabilities() -> None:
    """None is left, and none can be had again."""
    for capability in range(_LAST_CAPABILITY + 1):
        with contextlib.suppress(OSError):  # beyond the kernel's last one, or not ours to drop
            prctl(_CAPBSET_DROP, capability)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    called("capset", libc.capset(header, (ctypes.c_uint32 * 6)()))


def become(uid: int) -> None:
    """Another user and group, with no other groups."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def free_uid(number: int) -> int:
    """A uid that nobody else has: process limits count by uid. Of the ids that this user namespace has, from its top."""
    with open("/proc/self/uid_map") as file:
        first, _, count = (int(word) for word in file.readline().split())
    if count >= 1 << 31:
        return 1_900_000_000 + number
    return first + count - 2 - number % max(1, count // 2)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = [word.encode() or None for word in (source, target, kind)]
    what = f"mount {kind or source} on {target}"
    called(what, libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None))


def libraries() -> list[str]:
    """What Python and its extension modules read: its standard library, the machine's shared libraries, time zones."""
    own = [os.path.realpath(os.path.dirname(os.__file__))]
    own += [os.path.realpath(path) for path in sys.path if os.path.isdir(path) and "lib-dynload" in path]
    shared = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache"]
    found: list[str] = []
    for path in [*(p for p in shared if os.path.exists(p)), *own]:
        if not any(path == other or path.startswith(other + "/") for other in found):
            found.append(path)
    return found


WORK = "/tmp"  # noqa: S108 (the sandbox's own)
"""Where a sandboxed process may write."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
HIDDEN = ("site-packages", "dist-packages")
"""Below the libraries: packages of the machine are not the completion's."""


def hidden(path: str) -> list[str]:
    """The packages' folders directly below a library's."""
    return [f"{path}/{name}" for name in HIDDEN if os.path.isdir(f"{path}/{name}")]


def empty_root(megabytes: int, inodes: int) -> None:
    """Turn / into an empty file system with the libraries, read-only, and a /tmp of this size, which is the only place to write.

    The mount namespace must be one's own. What lay below / before cannot be reached any more; there is no /proc.
    """
    _mount("", "/", "", _REC | _PRIVATE)
    # Opened before anything is mounted over them.
    opened = [(path, os.open(path, os.O_PATH)) for path in libraries() if not os.path.islink(path)]
    opened += [(path, os.open(path, os.O_PATH)) for path in DEVICES if os.path.exists(path)]
    links = [(path, os.readlink(path)) for path in libraries() if os.path.islink(path)]
    root = "/tmp"  # noqa: S108 (any folder that is there: only this process sees what is mounted on it)
    _mount("tmpfs", root, "tmpfs", _NOSUID, "size=1m,mode=0755")
    for path, fd in opened:
        _bind(f"/proc/self/fd/{fd}", root + path, os.path.isdir(f"/proc/self/fd/{fd}"), path not in DEVICES)
        os.close(fd)
    for path, target in links:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(target, root + path)
    for path, _ in opened:
        for folder in hidden(root + path):
            _mount("tmpfs", folder, "tmpfs", _NOSUID | _NODEV | _RDONLY, "size=4k")
    os.makedirs(root + WORK)
    _mount("tmpfs", root + WORK, "tmpfs", _NOSUID | _NODEV, f"size={megabytes}m,nr_inodes={inodes},mode=1777")
    os.chdir(root)
    if libc.syscall(ctypes.c_long(_PIVOT_ROOT.get(MACHINE, -1)), b".", b".") == 0:
        called("umount", libc.umount2(b".", _DETACH))
    else:  # the root of a ramdisk cannot be exchanged; it can be covered
        _mount(".", "/", "", _MOVE)
        os.chroot(".")
    os.chdir("/")
    _mount("", "/", "", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    os.chdir(WORK)


def _bind(source: str, target: str, folder: bool, read_only: bool) -> None:
    if folder:
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    try:
        _mount(source, target, "", _BIND)
    except OSError:  # with mounts below it that this namespace may not take off
        _mount(source, target, "", _BIND | _REC)
    kept = os.statvfs(target).f_flag & (_NOSUID | _NODEV | _NOEXEC)
    flags = _REMOUNT | _BIND | _NOSUID | kept
    _mount("", target, "", flags | _RDONLY | _NODEV if read_only else flags)

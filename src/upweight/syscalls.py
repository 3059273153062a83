"""A seccomp filter for untrusted programs: what the namespaces of a sandbox alone do not close.

It leaves a program one process (threads are allowed, since the limit on memory bounds them), no socket of any kind
(AF_VSOCK would leave even an empty network namespace), no memory that no limit counts (memfd, System V), and no call
that widens what can be seen of the machine.
"""

from __future__ import annotations

import struct
from errno import ENOSYS, EPERM

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of linux/bpf_common.h
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # places in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000  # of linux/seccomp.h
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000  # a second table of system calls on x86_64, which nothing needs

# The same numbers on every machine. 435 is clone3, whose flags a filter cannot read: without it libc takes clone.
_CLONE3 = 435
_NEWER = (425, 428, 429, 430, 431, 432, 433, 438, 440, 442, 447)  # io_uring_setup .. mount_setattr, memfd_secret
# By machine: the number of its architecture, that of clone, and what is refused.
_MACHINES = {
    "x86_64": (
        0xC000003E,
        56,
        {
            "fork": 57, "vfork": 58, "socket": 41, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166,
            "pivot_root": 155, "chroot": 161, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
            "kcmp": 312, "memfd_create": 319, "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "msgget": 68,
            "mq_open": 240, "keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321, "perf_event_open": 298,
            "userfaultfd": 323, "open_by_handle_at": 304, "modify_ldt": 154, "personality": 135, "syslog": 103,
        },
    ),
    "aarch64": (
        0xC00000B7,
        220,
        {
            "socket": 198, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "memfd_create": 279,
            "shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "msgget": 186, "mq_open": 180, "keyctl": 219,
            "add_key": 217, "request_key": 218, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
            "open_by_handle_at": 265, "personality": 92, "syslog": 116,
        },
    ),
}  # fmt: skip


def known(machine: str) -> bool:
    """Whether there is a filter for this kind of machine, as `platform.machine()` calls it."""
    return machine in _MACHINES


def program(machine: str) -> bytes:
    """The filter as bubblewrap reads it: an array of struct sock_filter."""
    architecture, clone, refused = _MACHINES[machine]
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        *_refuse(_AT_LEAST, _X32, EPERM),
        *_refuse(_EQUAL, _CLONE3, ENOSYS),
    ]
    for number in (*refused.values(), *_NEWER):
        steps += _refuse(_EQUAL, number, EPERM)
    steps += [
        _step(_EQUAL, clone, 1, 0),
        _step(_RETURN, _ALLOW),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_BIT, _CLONE_THREAD, 1, 0),
        _step(_RETURN, _ERRNO | EPERM),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)


def _refuse(comparison: int, number: int, error: int) -> list[bytes]:
    return [_step(comparison, number, 0, 1), _step(_RETURN, _ERRNO | error)]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the last two say how many of the next ones are skipped."""
    return struct.pack("=HBBI", code, if_true, if_false, value)

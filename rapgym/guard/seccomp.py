"""Linux's seccomp: a process gives up system calls through which it could reach others, for good.

Landlock closes files. This closes what it leaves open: the network and sockets of other processes,
memory and queues that outlive a process, and whatever would take a process out of the group that is
killed with it. Numbers of calls: linux/unistd.h of the kernel's UAPI, by machine.
"""

import ctypes
import errno
import platform
import sys

# Each call by machine: x86_64, aarch64.
_CALLS = {
    "socket": (41, 198),  # a pair of sockets is made by another call, and stays allowed
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH_*
_OTHER_NUMBERS = 0x40000000  # the x32 calls of x86_64 begin here
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF instructions
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | errno.EPERM
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2  # prctl


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def confine() -> bool:
    """From now on these calls of this thread, and of what it starts, fail with EPERM.

    Returns:
        Whether the kernel does so; False leaves everything as it was.
    """
    known = _MACHINES.get(platform.machine())
    if known is None or not sys.platform.startswith("linux"):
        return False
    column, machine = known
    numbers = [each[column] for each in _CALLS.values()]
    # Offsets in seccomp_data: 0 the call's number, 4 the machine.
    program = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _DENY),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, len(numbers) + 1, 0, _OTHER_NUMBERS),
        *((_EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    ]
    filled = (_Instruction * len(program))(*(_Instruction(*each) for each in program))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    told = _Program(len(program), filled)
    return bool(libc.prctl(_SECCOMP, _FILTER, ctypes.byref(told), 0, 0) == 0)

"""The sandboxed side of grading: run answers, return numbers. A script, which `sandbox` starts.

Standard input holds the jobs; standard output gets, for each, a line with one result a case. This
process imports torch once and runs nothing of a student's. A job runs in a child, with limits, that
cannot start another process or thread. What the child writes into its pipe is data: it is compared
elsewhere, with a reference that is not in here.
"""

import ctypes
import importlib.machinery
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import time
import types

import cells  # beside this script, as `probes` is: `optcore.course` would import all of optcore

MEMORY = 2 << 30  # bytes that a job may take, beside torch's
FILE = 16 << 20  # bytes of a file
ANSWER = 4 << 20  # bytes of a job's results
WALL = 3  # seconds by the clock, for each second of the processor

# System calls that a job must not make, after the machine's AUDIT_ARCH: those that start a process,
# a thread or a program, trace a process, leave the namespaces, take memory that no limit counts, or
# read the keys of whoever grades, which bubblewrap hands on.
FORBIDDEN_CALLS = {
    # fork vfork clone clone3 execve execveat ptrace unshare io_uring_setup, shmget semget msgget
    # memfd_create memfd_secret, add_key request_key keyctl
    "x86_64": (0xC000003E, 57, 58, 56, 435, 59, 322, 101, 272, 425)
    + (29, 64, 68, 319, 447, 248, 249, 250),
    "aarch64": (0xC00000B7, 220, 435, 221, 281, 117, 97, 425)
    + (194, 190, 186, 279, 447, 217, 218, 219),
}
PRLIMIT = {"x86_64": 302, "aarch64": 261}
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38
SECCOMP_MODE_FILTER, ALLOW, FAIL_EPERM, KILL = 2, 0x7FFF0000, 0x00050001, 0x80000000


class Forbidden(types.ModuleType):
    """Stands where a forbidden module would: it can be imported, and raises when it is used."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def __new__(cls, *args, **kwargs):
            refuse(self.__name__)

        return type(name, (), {"__new__": __new__})


class ForbiddenFinder:
    """Finds `Forbidden` for the names of an assignment, and for all that is inside them."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        """Return a spec for a forbidden name, None for any other."""
        if any(f"{name}.".startswith(f"{forbidden}.") for forbidden in self.names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        """Return the module that raises."""
        return Forbidden(spec.name)

    def exec_module(self, module):
        """Do nothing: there is nothing in it."""


def refuse(name):
    """Raise: the assignment forbids what was called."""
    raise RuntimeError(f"{name} is not allowed in this assignment")


def main():
    """Run the jobs of standard input, one after the other."""
    order = json.load(sys.stdin)
    sys.meta_path.insert(0, ForbiddenFinder(order["forbids"]))
    # Only now, with torch.optim's place taken where it is forbidden.
    import probes  # noqa: F401  `answer` finds it loaded
    import torch

    if "torch.optim" in order["forbids"]:
        kernels = torch.library.Library("aten", "IMPL")
        for name in ("adagrad", "adam", "adamw", "sgd"):  # the steps of torch.optim, in one call
            step = getattr(torch.ops.aten, f"_fused_{name}_")
            for overload in step.overloads():
                kernels.impl(getattr(step, overload), lambda *a, **k: refuse("torch.optim"), "CPU")
        # Whoever finds what holds them can take them back: nothing of Python's leads there.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kernels.m))
        kernels.m = None
    torch.set_num_threads(1)
    sys.path[0] = order["path"]  # where optcore lies, in place of this script's folder
    if order["sandboxed"]:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as process 1 it gets no signal then
        prctl(PR_SET_DUMPABLE, 0)  # nobody reads its memory or its open files
        if not confined():
            sys.exit("This machine's kernel does not keep a process from starting others (seccomp)")
    for job in order["jobs"]:
        print(json.dumps(results(job)), flush=True)


def results(job):
    """One result for each case of the job, from a child's pipe or about what became of it."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    if not (child := os.fork()):
        try:
            confine(writing, job["seconds"])
            answer(job, writing)
        finally:
            os._exit(0)
    os.close(writing)
    data, deadline, timed_out = bytearray(), time.monotonic() + WALL * job["seconds"], False
    while len(data) <= ANSWER:
        left = deadline - time.monotonic()
        timed_out = left <= 0 or not select.select([reading], [], [], left)[0]
        try:
            if timed_out or not (more := os.read(reading, 1 << 16)):
                break
        except BlockingIOError:  # the child was quicker: it can open the pipe's other end, too
            continue
        data += more
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    # A signal ends it, or if it ignores that one the harder limit, a second later.
    stopped = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
    if timed_out or stopped or used.ru_utime + used.ru_stime > job["seconds"]:
        end = f"It took more than the {job['seconds']:g} seconds it has"
    elif len(data) > ANSWER:
        end = "It returned more than there is to return"
    else:
        end = "Its process ended before it returned anything"
    lines = bytes(data[:ANSWER]).split(b"\n")[:-1] if len(data) <= ANSWER else []
    found = [result_of(line) for line in lines[: len(job["cases"])]]
    return found + [{"error": end}] * (len(job["cases"]) - len(found))


def confined():
    """Whether the limits hold: a child that has them fails to fork."""
    if not (child := os.fork()):
        try:
            confine(2, 1)
            os.fork()
        except PermissionError:
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def result_of(line):
    """The result that a child wrote, or a sentence about what else it wrote.

    Whoever reads it further on is as deep in calls as it likes: nothing deep gets past here.
    """
    try:
        result = json.loads(line)
        if "error" in result:
            return {"error": str(result["error"])[:300]}
        numbers = [number for row in result["rows"].values() for number in row]
        if all(type(number) is float for number in numbers):
            return {"rows": result["rows"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return {"error": "What came back from its process is no result"}


def answer(job, writing):
    """In the child: define the answer, try it on each case, write each result at once."""
    import probes

    try:
        function = cells.define(cells.read_cells(job["file"]), job["answer"])
    except Exception as error:
        found = f"{error}" if isinstance(error, LookupError) else probes.described(error)
        for _ in job["cases"]:
            write(writing, {"error": found[:300]})
        return
    for case in job["cases"]:
        write(writing, probes.tried(job["probe"], function, case, "cpu"))


def write(writing, result):
    """Write one line, all of it: a pipe takes 64 kB at once."""
    line = json.dumps(result).encode() + b"\n"
    while line:
        line = line[os.write(writing, line) :]


def confine(writing, seconds):
    """In the child: no streams, no files but the pipe, limits, and no way to start anything."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.closerange(3, writing)
    os.closerange(writing + 1, 1 << 10)
    limits = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (int(seconds), int(seconds) + 1),
        resource.RLIMIT_FSIZE: (FILE, FILE),
        resource.RLIMIT_NOFILE: (64, 64),
    }
    if linux := sys.platform == "linux":
        with open("/proc/self/statm", "rb") as file:
            taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limits[resource.RLIMIT_AS] = taken + MEMORY, taken + MEMORY
    for limit, soft_and_hard in limits.items():
        resource.setrlimit(limit, soft_and_hard)
    if linux and (calls := FORBIDDEN_CALLS.get(platform.machine())):
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        filter_calls(*calls, prlimit=PRLIMIT[platform.machine()])


def filter_calls(architecture, *calls, prlimit):
    """Let these system calls fail with EPERM from now on, and no others but `prlimit` of others.

    The filter is a program for the kernel. An instruction is (code, jump if true, jump if false,
    operand): 0x20 loads, 0x15 and 0x35 compare (=, ≥), 0x06 returns. A call that says it is of
    another architecture ends the process. A process may change the limits of all that are of its
    user, so of the worker, too; its own are those of number 0.
    """
    n = len(calls)
    program = [(0x20, 0, 0, 4), (0x15, 1, 0, architecture), (0x06, 0, 0, KILL), (0x20, 0, 0, 0)]
    program += [(0x35, n + 4, 0, 0x40000000)]  # x86_64's second table of the same calls
    program += [(0x15, n + 3 - i, 0, call) for i, call in enumerate(calls)]
    program += [(0x15, 0, 2, prlimit), (0x20, 0, 0, 16), (0x15, 0, 1, 0)]
    program += [(0x06, 0, 0, ALLOW), (0x06, 0, 0, FAIL_EPERM)]
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(packed)
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header)


def prctl(option, value, pointer=None):
    """Call prctl, or raise OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0))
    if libc.prctl(option, *arguments):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


if __name__ == "__main__":
    main()

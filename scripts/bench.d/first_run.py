# SPDX-License-Identifier: LGPL-2.1-or-later
"""When a guest first ran, by the kernel's own tracepoints: in an instance of tracefs of our own, so that
nobody else's traces are disturbed."""
import contextlib
import os
import re
import subprocess

TRACING = "/sys/kernel/tracing"
KVM_RUN = 0xAE80
LINE = re.compile(r"^.*-(\d+) +\[\d+\] .*? (\d+\.\d+): (\w+)[:(](.*)$")


class FirstRun:
    """measure(pid): ms from the exec of the first process of (program) since clear() to the first KVM_RUN
    that a thread of (pid) asked for; None where the kernel does not tell."""

    def __init__(self, program):
        self.program = os.path.realpath(program)
        self.folder = f"{TRACING}/instances/clearstore-{os.getpid()}"
        # Where no service manager has mounted it nobody else has: ours goes again.
        self.mounted = not os.path.isdir(f"{TRACING}/instances") and subprocess.run(
            ["mount", "-t", "tracefs", "clearstore", TRACING], check=False,
            stderr=subprocess.DEVNULL).returncode == 0
        try:
            os.mkdir(self.folder)
            self.write("trace_clock", "mono")
            self.write("buffer_size_kb", "2048")
            self.write("events/syscalls/sys_enter_ioctl/filter", f"cmd=={KVM_RUN}")
            self.write("events/syscalls/sys_enter_ioctl/enable", "1")
            self.write("events/sched/sched_process_exec/enable", "1")
        except OSError:
            self.close()

    def write(self, name, text):
        with open(f"{self.folder}/{name}", "w") as file:
            file.write(text)

    def clear(self):
        if self.folder:
            self.write("trace", "")

    def measure(self, pid):
        if not self.folder:
            return None
        threads = set(os.listdir(f"/proc/{pid}/task"))
        begun = None
        with open(f"{self.folder}/trace") as trace:
            for line in trace:
                found = LINE.match(line)
                if not found:
                    continue
                thread, at, event, rest = found.groups()
                if event == "sched_process_exec" and begun is None and self.is_ours(rest):
                    begun = float(at)
                elif event == "sys_ioctl" and begun is not None and thread in threads:
                    return 1000 * (float(at) - begun)
        return None

    def is_ours(self, rest):
        name = re.search(r"filename=(\S+)", rest)
        return name is not None and os.path.realpath(name[1]) == self.program

    def close(self):
        if self.folder:
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)
        self.folder = None
        if self.mounted:
            subprocess.run(["umount", TRACING], check=False, stderr=subprocess.DEVNULL)
        self.mounted = False

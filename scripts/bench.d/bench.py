# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the scripts that measure share: running the program, reading counters, writing results."""
import concurrent.futures
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

MIB = 1 << 20
CALM_S = 3  # in a row
# What the deltas of /proc/meminfo are taken of. VmallocUsed holds kernel stacks too, so these are
# taken off: what stays is mostly KVM's bookkeeping for memory slots.
COUNTERS = ("PageTables", "SecPageTables", "Slab", "KernelStack", "Percpu", "VmallocUsed")


class Failure(Exception):
    pass


def clearstore(options, *words, check=True):
    """Run the program; its standard output."""
    done = subprocess.run([options.program, "--store", options.store, *words], text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if check and done.returncode != 0:
        raise Failure(f"clearstore {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def guests(options):
    """The running guests of the store: name -> pid."""
    rows = json.loads(clearstore(options, "list", "--running", "--json"))
    return {row["name"]: row["pid"] for row in rows}


def numbers(path):
    """The "Key: 123 kB" lines of a file in /proc, in bytes; a key that comes twice is summed."""
    found = {}
    with open(path) as lines:
        for line in lines:
            words = line.replace(":", " ").split()
            if len(words) == 3 and words[2] == "kB":
                found[words[0]] = found.get(words[0], 0) + int(words[1]) * 1024
    return found


def size(text):
    """Bytes of "128M"."""
    return int(text.rstrip("KMGB")) << {"K": 10, "M": 20, "G": 30}.get(text.rstrip("B")[-1], 0)


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as knob:
        knob.write("3\n")


def settle(patience):
    """Wait, (patience) s at most, until what is available stays as it is: behind a build or an import
    the host goes on for a while to write and to take back, and guests would be held against that."""
    os.sync()
    until = time.monotonic() + patience
    now = numbers("/proc/meminfo")["MemAvailable"]
    calm = 0
    while calm < CALM_S and time.monotonic() < until:
        time.sleep(1)
        was, now = now, numbers("/proc/meminfo")["MemAvailable"]
        calm = calm + 1 if abs(now - was) < MIB else 0


def read_data(file):
    """All of it but the holes, which would become pages of zeroes in the cache."""
    bytes_, at = os.fstat(file.fileno()).st_size, 0
    while at < bytes_:
        try:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:
            return  # a hole up to the end
        end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
        os.lseek(file.fileno(), at, os.SEEK_SET)
        while at < end:
            at += len(file.read(min(4 * MIB, end - at)))


def read_template(options):
    """Bring the template's parts into the page cache, as after the first of many guests."""
    folder = os.path.join(options.store, "templates", options.template, "active")
    for part in os.scandir(folder):
        if part.is_file():
            with open(part.path, "rb", buffering=0) as data:
                read_data(data)


def say(options, guest, port, request, timeout=120):
    """Send a line to a service in a guest, by vsock; the line that it answers with."""
    # By way of a descriptor: the path of a store may be longer than the name of a socket.
    folder = os.open(os.path.join(options.store, "guests", guest), os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(timeout)
            line.connect(f"/proc/self/fd/{folder}/vsock.sock")
            line.sendall(b"CONNECT %d\n" % port)
            said = line.makefile("rb")
            if not said.readline().startswith(b"OK "):
                raise Failure(f"guest '{guest}': nobody serves port {port}")
            line.sendall(request.encode() + b"\n")
            return said.readline().decode().strip()
    finally:
        os.close(folder)


def answer(options, names, how):
    """Each guest must answer, or it does not count as one. As many are asked at once as there are CPUs."""
    def ask(name):
        if isinstance(how, int):
            if not say(options, name, how, "here?"):
                raise Failure(f"guest '{name}': its service on port {how} said nothing")
        elif how == "exec":
            said = clearstore(options, "exec", name, "--", "echo", "here").strip()
            if said != "here":
                raise Failure(f"guest '{name}' answered '{said}', not 'here'")
        else:
            # Guests that have just woken are busy for a while, all of them at once.
            clearstore(options, "ping", "--timeout", "60", name)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as asking:
        for _ in asking.map(ask, names):
            pass


def processes(pids):
    """Sums over the guests' processes."""
    total = {"Pss": 0, "Private_Dirty": 0, "VmPTE": 0, "Threads": 0}
    for pid in pids:
        rollup = numbers(f"/proc/{pid}/smaps_rollup")
        total["Pss"] += rollup["Pss"]
        total["Private_Dirty"] += rollup["Private_Dirty"]
        total["VmPTE"] += numbers(f"/proc/{pid}/status")["VmPTE"]
        total["Threads"] += len(os.listdir(f"/proc/{pid}/task"))
    return total


def pss_of_monitor(pid, ram_bytes, parts):
    """Pss of a monitor without the guest's memory and root: without mappings as large as the
    guest's memory, of files in the folders (parts), and what lies in one piece with such a file
    (memory into which a kernel is mapped)."""
    areas = []
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                start, end = (int(word, 16) for word in words[0].split("-"))
                areas.append({"start": start, "end": end, "path": " ".join(words[5:]), "pss": 0})
            elif words[0] == "Pss:":
                areas[-1]["pss"] = int(words[1]) * 1024
    for area in areas:
        area["part"] = area["path"].startswith(tuple(parts))
        area["guest"] = area["part"] or area["end"] - area["start"] >= ram_bytes
    for order in (areas, areas[::-1]):
        for one, other in zip(order, order[1:]):
            touch = one["end"] == other["start"] or one["start"] == other["end"]
            if one["part"] and touch and not other["path"]:
                other["part"] = other["guest"] = True
    return sum(area["pss"] for area in areas if not area["guest"])


def cpu_ticks(pids):
    """CPU time used so far by all threads of the guests' processes, in clock ticks."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks


def marginal(before, after, process, n):
    """What each of n guests costs, in bytes: name -> (value, depth of the row). Readings of
    /proc/meminfo before and after, sums over the guests' processes."""
    whole = before["MemAvailable"] - after["MemAvailable"]
    delta = {key: after[key] - before[key] for key in COUNTERS if key in before}
    delta["VmallocUsed"] -= delta["KernelStack"]
    # What other processes took or gave back meanwhile: on an idle host it is about nothing.
    others = sum(after[key] - before[key] for key in ("AnonPages", "Shmem")) - \
        process["Private_Dirty"]
    explained = process["Private_Dirty"] + others + sum(delta.values())
    rows = {"marginal memory (MemAvailable)": whole,
            "  Private_Dirty of the process": process["Private_Dirty"],
            "  of processes that are no guests": others}
    for key, value in delta.items():
        rows["  " + key + (" without stacks" if key == "VmallocUsed" else "")] = value
    rows["  not explained by these"] = whole - explained
    rows["Pss of the process"] = process["Pss"]
    rows["VmPTE of the process (in PageTables)"] = process["VmPTE"]
    return {name: value / n for name, value in rows.items()}


def percentile(values, part):
    """The smallest value that (part) of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def host():
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":", 1)[1].strip() for line in info
                      if line.startswith("model name")), "unknown CPU")
    memory = numbers("/proc/meminfo")["MemTotal"] / (1 << 30)
    return f"Linux {os.uname().release}, {os.cpu_count()} x {model}, {memory:.0f} GiB"


def warn_of_swap(me):
    with open("/proc/swaps") as swaps:
        if len(swaps.readlines()) > 1:
            print(f"{me}: this host has swap, so the figures mean little (swapoff -a)",
                  file=sys.stderr)


def progress(text):
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def write_csv(path, rows):
    with open(path, "w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_json(path, value):
    with open(path, "w") as out:
        json.dump(value, out, indent=1)
        out.write("\n")


def plot(path, script):
    """Draw with gnuplot, where there is one."""
    if not shutil.which("gnuplot"):
        print(f"no gnuplot, so no {path} (apt-get install gnuplot-nox)", file=sys.stderr)
        return
    head = (f'set terminal pngcairo noenhanced size 900,540 font "sans,11"\nset output "{path}"\n'
            'set datafile separator ","\nset grid ytics lc rgb "#d0d0d0"\nset border 3\n'
            'set tics nomirror\nset key outside right top\n')
    subprocess.run(["gnuplot"], input=head + script, text=True, check=True)


def add_options(parser):
    """What all of them take."""
    parser.add_argument("--template", required=True, metavar="T")
    parser.add_argument("--memory", default="128M", help="RAM of each guest (128M)")
    parser.add_argument("--name", default=f"bench-{os.getpid()}", help="of the guests")
    parser.add_argument("--store", default=os.environ.get("CLEARSTORE_STORE",
                                                          "/var/lib/clearstore"))
    parser.add_argument("--program", default=os.environ.get("CLEARSTORE", "clearstore"))


def remove_guests(options):
    """All whose names begin as ours do. In portions: a command line has an end."""
    rows = json.loads(clearstore(options, "list", "--json", check=False) or "[]")
    ours = re.compile(re.escape(options.name) + r"(-.*)?$")
    names = [row["name"] for row in rows if ours.match(row["name"])]
    for i in range(0, len(names), 500):
        clearstore(options, "remove", "--force", *names[i:i + 500], check=False)


def main(me, options, run):
    """Run, and whatever happens remove the guests unless --keep says otherwise."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    if os.geteuid() != 0:
        print(f"{me}: needs root, to drop caches and read other users' processes", file=sys.stderr)
        return 1
    warn_of_swap(me)
    try:
        run(options)
        return 0
    except KeyboardInterrupt:
        return 130
    except (Failure, OSError, subprocess.SubprocessError) as failure:
        print(f"{me}: {failure}", file=sys.stderr)
        return 1
    finally:
        progress("")
        if not getattr(options, "keep", False):
            remove_guests(options)



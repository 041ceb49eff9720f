# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ways to have a guest of one kernel and one root, for bench-peers: clearstore, QEMU and others, each
with the same four verbs: start (until the agent serves), ping, run, stop."""
import json
import os
import shutil
import socket
import subprocess
import sys

import bench
import wire

BOOT_SECONDS = 120


class Absent(Exception):
    """This host cannot have that peer; the words say why."""


class Frame:
    """What all of them share: the files of the template, the kernel's command line, a folder."""
    def __init__(self, options):
        self.options = options
        self.folder = options.work
        self.parts = os.path.realpath(
            os.path.join(options.store, "templates", options.template, "active"))
        self.kernel, self.root = (os.path.join(self.parts, part) for part in ("kernel", "root"))
        self.listener, self.cmdline = None, ""

    def learn_cmdline(self, said):
        """The words that clearstore gives this kernel, but for where root and devices are."""
        self.cmdline = " ".join(
            word for word in said.split()
            if not word.startswith(("root=", "rootflags=", "virtio_mmio.device=")))

    def listen(self):
        if self.listener is None:
            subprocess.run(["modprobe", "vhost_vsock"], check=False, stderr=subprocess.DEVNULL)
            if not os.path.exists("/dev/vhost-vsock"):
                raise Absent("no vhost-vsock on this host, by which its agent would answer")
            self.listener = wire.listen_vsock()
        return self.listener


class Clearstore:
    def __init__(self, frame, name, cold):
        self.frame, self.name, self.cold = frame, name, cold
        self.words = ["--cold", "--share-domain", "peers"] if cold else []

    def prepare(self):
        pass

    def start(self, i):
        name = f"{self.frame.options.name}-{self.name}-{i}"
        bench.clearstore(self.frame.options, "spawn", self.frame.options.template, "--memory",
                         self.frame.options.memory, "--name", name, "--wait", *self.words)
        return name

    def ping(self, guest):
        bench.clearstore(self.frame.options, "ping", guest)

    def run(self, guest, argv):
        return bench.clearstore(self.frame.options, "exec", guest, "--", *argv)

    def pid(self, guest):
        return json.loads(bench.clearstore(self.frame.options, "show", guest, "--json"))["pid"]

    def stop(self, guest):
        bench.clearstore(self.frame.options, "remove", "--force", guest)


class Running:
    """A guest of another monitor: its process, the agent's connection, how to make another."""
    def __init__(self, process, line, dial):
        self.process, self.line, self.dial = process, line, dial


class Other:
    """What the other monitors share. Their guests are ended by SIGKILL: nothing of them is kept."""
    def ping(self, guest):
        wire.ping(guest.line)

    def run(self, guest, argv):
        with guest.dial() as line:
            line.settimeout(BOOT_SECONDS)
            said, status = wire.run(line, argv)
        if status:
            raise bench.Failure(f"{self.name}: {' '.join(argv)}: status {status}: {said.strip()}")
        return said

    def pid(self, guest):
        return guest.process.pid

    def stop(self, guest):
        guest.process.kill()
        guest.process.wait()
        guest.line.close()


class Qemu(Other):
    """-M microvm with virtio-blk. (how): "boot"; "restore", from a state with the memory in it;
    "template", from a state beside a file of memory that is mapped privately (what Kata
    Containers' templating does)."""
    binary = "qemu-system-x86_64"
    machine = "microvm,acpi=off,rtc=off,pit=off,pic=off,x-option-roms=off"

    def __init__(self, frame, name, how):
        self.frame, self.name, self.how = frame, name, how
        self.cids = 1000 * (1 + ("boot", "restore", "template").index(how))
        self.state = os.path.join(frame.folder, f"{how}.state")
        self.memory = os.path.join(frame.folder, f"{how}.memory")

    def command(self, cid, share=None):
        """(share): the memory is a file, mapped so ("on", "off")."""
        machine = self.machine
        memory = self.frame.options.memory
        words = []
        if share:
            machine += ",memory-backend=ram"
            words = ["-object", f"memory-backend-file,id=ram,size={memory},mem-path={self.memory},"
                     f"share={share}"]
        console = os.path.join(self.frame.folder, "console")
        return [self.binary, "-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config",
                "-display", "none", "-no-reboot", "-smp", "1", "-m", memory, *words,
                "-M", machine, "-kernel", self.frame.kernel,
                "-append", f"{self.frame.cmdline} root=/dev/vda",
                "-drive", f"if=none,id=root,format=raw,readonly=on,file={self.frame.root}",
                "-device", "virtio-blk-device,drive=root",
                "-device", f"vhost-vsock-device,guest-cid={cid}",
                "-device", "virtio-serial-device",
                "-chardev", f"file,id=console,path={console}",
                "-device", "virtconsole,chardev=console"]

    def launch(self, cid, command, fds=(), stdin=subprocess.DEVNULL):
        with open(os.path.join(self.frame.folder, "stderr"), "a") as errors:
            process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL,
                                       stderr=errors, pass_fds=fds)
        try:
            line = wire.welcome(self.frame.listen(), f"{self.name}-{cid}",
                                lambda: process.poll() is None, BOOT_SECONDS, cid)
        except BaseException as why:
            process.kill()
            process.wait()
            for name in ("stderr", "console"):
                with open(os.path.join(self.frame.folder, name), errors="replace") as said:
                    sys.stderr.write(f"{why}: {name}:\n{said.read()[-2000:]}\n")
            raise

        def dial():
            other = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            other.connect((cid, wire.PORT))
            return other
        return Running(process, line, dial)

    def prepare(self):
        if not shutil.which(self.binary):
            raise Absent(f"no {self.binary} in PATH (apt-get install qemu-system-x86)")
        self.frame.listen()
        if self.how != "boot":
            self.save()

    def save(self):
        """Boot one, let go of what it read for that, write its state, end it."""
        share = "on" if self.how == "template" else None
        if share:
            with open(self.memory, "w") as file:
                file.truncate(bench.size(self.frame.options.memory))
        guest = self.launch(self.cids, self.command(self.cids, share) + ["-monitor", "stdio"],
                            stdin=subprocess.PIPE)
        self.run(guest, ["sh", "-c", "echo 3 >/proc/sys/vm/drop_caches"])
        words = ["migrate_set_capability x-ignore-shared on"] if share else []
        # Not "stop" before: what is saved stopped is also restored stopped.
        words += ["migrate_set_parameter max-bandwidth 4G", f'migrate "exec:cat >{self.state}"',
                  "quit"]
        guest.process.stdin.write("".join(word + "\n" for word in words).encode())
        guest.process.stdin.close()
        guest.process.wait(BOOT_SECONDS)
        guest.line.close()
        if not os.path.getsize(self.state):
            raise bench.Failure(f"{self.name}: no state was saved")

    def start(self, i):
        cid = self.cids + 1 + i
        if self.how == "boot":
            return self.launch(cid, self.command(cid))
        with open(self.state, "rb") as state:
            fd = state.fileno()
            if self.how == "restore":
                return self.launch(cid, self.command(cid) + ["-incoming", f"fd:{fd}"], [fd])
            read, write = os.pipe()
            os.write(write, b"migrate_set_capability x-ignore-shared on\n"
                     b"migrate_incoming fd:%d\n" % fd)
            try:
                # The writing end stays open: at the end of its input QEMU's monitor ends QEMU.
                guest = self.launch(cid, self.command(cid, "off") +
                                    ["-incoming", "defer", "-monitor", "stdio"], [fd], read)
            finally:
                os.close(read)
            guest.monitor = write
            return guest

    def stop(self, guest):
        super().stop(guest)
        if hasattr(guest, "monitor"):
            os.close(guest.monitor)


class QemuPmem(Qemu):
    """The root by DAX. microvm takes no memory devices, and other machines of QEMU need PCI and ACPI,
    which the guest kernel does not have."""
    def prepare(self):
        help_ = subprocess.run([self.binary, "-M", "microvm,acpi=off", "-nodefaults", "-display",
                                "none", "-S", "-accel", "tcg", "-object",
                                "memory-backend-ram,id=m,size=2M", "-device",
                                "virtio-pmem-pci,memdev=m"], text=True, timeout=60,
                               stdin=subprocess.DEVNULL, capture_output=True, check=False)
        raise Absent("QEMU's microvm has no DAX root: " +
                     (help_.stderr.strip().splitlines() or ["it ended without a word"])[-1])


class Firecracker(Other):
    """One process with a configuration file; vsock is a unix socket, as clearstore's."""
    binary, name = "firecracker", "firecracker"

    def __init__(self, frame):
        self.frame = frame

    def prepare(self):
        if not shutil.which(self.binary):
            raise Absent(f"no {self.binary} in PATH")

    def start(self, i):
        base = os.path.join(self.frame.folder, f"fc-{i}")
        for path in (base, f"{base}_1"):
            if os.path.exists(path):
                os.unlink(path)
        config = {
            "boot-source": {"kernel_image_path": self.frame.kernel,
                            "boot_args": self.frame.cmdline + " pci=off"},
            "drives": [{"drive_id": "root", "path_on_host": self.frame.root,
                        "is_root_device": True, "is_read_only": True}],
            "machine-config": {"vcpu_count": 1,
                               "mem_size_mib": bench.size(self.frame.options.memory) // bench.MIB},
            "vsock": {"guest_cid": 3 + i, "uds_path": base}}
        bench.write_json(base + ".json", config)
        command = [self.binary, "--no-api", "--config-file", base + ".json"]
        with wire.listen_unix(f"{base}_1") as listener:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                line = wire.welcome(listener, f"fc-{i}", lambda: process.poll() is None,
                                    BOOT_SECONDS)
            except BaseException:
                process.kill()
                process.wait()
                raise

        def dial():
            other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            other.connect(base)
            other.sendall(b"CONNECT %d\n" % wire.PORT)
            while other.recv(1) not in (b"\n", b""):
                pass
            return other
        return Running(process, line, dial)


class CloudHypervisor(Firecracker):
    binary, name = "cloud-hypervisor", "cloud-hypervisor"

    def prepare(self):
        super().prepare()
        raise Absent("cloud-hypervisor has its devices on PCI, and the guest kernel has no PCI")


def all_of(frame):
    """In the order in which they take turns."""
    return [Clearstore(frame, "clearstore-cold", True),
            Qemu(frame, "qemu-microvm", "boot"),
            Clearstore(frame, "clearstore-warm", False),
            Qemu(frame, "qemu-template", "template"),
            Qemu(frame, "qemu-restore", "restore"),
            QemuPmem(frame, "qemu-pmem", "boot"),
            Firecracker(frame), CloudHypervisor(frame)]

# shellcheck shell=bash
# shellcheck disable=SC2154 # what lib.sh sets
# SPDX-License-Identifier: LGPL-2.1-or-later
# What tests of the store share. To be sourced behind lib.sh: a store of the test's own in $store, a
# kernel that nobody would boot in $kernel, and an agent. All goes with the test, also when it fails.

store=$scratch/store
kernel=$scratch/vmlinux
export CLEARSTORE_STORE=$store
export CLEARSTORE_KERNEL=$kernel
export CLEARSTORE_AGENT=$scratch/agent
export TMPDIR=$scratch/tmp
mkdir "$TMPDIR"
echo 'the agent' >"$scratch/agent"
trap store_end EXIT
command -v python3 >/dev/null || skip "no python3"

store_end() {
	local pid

	for pid in $(jobs -p); do
		kill -9 "$pid" 2>/dev/null || true
	done
	wait 2>/dev/null || true
	if mountpoint -q "$store" 2>/dev/null; then umount "$store"; fi
	if mountpoint -q "$scratch/disk" 2>/dev/null; then umount "$scratch/disk"; fi
	# what is sealed does not go by itself for those who are not root
	find "$scratch" -xdev -type d ! -perm -u+w -exec chmod u+w {} + || true
	rm -rf --one-file-system "$scratch"
}

# An ELF of (megabytes) with a banner of (release).
fake_kernel() {
	python3 - "$1" "$2" "$3" <<-'END'
		import random, struct, sys
		path, release, size = sys.argv[1], sys.argv[2], int(sys.argv[3]) << 20
		random.seed(1)
		body = bytearray(random.randbytes(size // 4) * 4)
		banner = b"Linux version %s (tester@test) #1 SMP\0" % release.encode()
		body[5000:5000 + len(banner)] = banner
		head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0x1000000, 64, 0,
		                   0, 64, 56, 1, 0, 0, 0)
		head += struct.pack("<IIQQQQQQ", 1, 5, 4096, 0x1000000, 0x1000000, len(body), len(body), 4096)
		open(path, "wb").write(head.ljust(4096, b"\0") + body)
	END
}

# A root with something of everything, as far as we may make it.
fake_root() {
	python3 - "$1" <<-'END'
		import os, random, sys
		top = sys.argv[1]
		random.seed(2)
		for d in "etc usr/bin usr/sbin var/empty home/user".split():
		    os.makedirs(f"{top}/{d}")
		os.chmod(f"{top}/home/user", 0o2711)
		os.symlink("usr/bin", f"{top}/bin")
		os.symlink("usr/sbin", f"{top}/sbin")
		os.symlink("/nowhere/" + "x" * 200, f"{top}/etc/dangling")
		for i in range(300):
		    with open(f"{top}/etc/file-{i}", "wb") as f:
		        f.write(random.randbytes(random.choice((0, 1, 100, 4095, 4096, 5000, 70000))))
		open(f"{top}/usr/bin/tool", "w").write("#!/bin/sh\n")
		os.chmod(f"{top}/usr/bin/tool", 0o4755)
		os.link(f"{top}/usr/bin/tool", f"{top}/usr/bin/same-tool")
		os.mkfifo(f"{top}/var/fifo")
		with open(f"{top}/var/sparse", "wb") as f:
		    f.write(b"front"); f.seek(1 << 30); f.write(b"back"); f.truncate(1 << 34)
		os.utime(f"{top}/etc/file-0", ns=(1, 1000000000123456789))
		try:
		    os.setxattr(f"{top}/usr/bin/tool", "user.test", b"value\0binary")
		except OSError:
		    pass
		if os.geteuid() == 0:
		    os.mknod(f"{top}/var/null", 0o20666, os.makedev(1, 3))
		    os.chown(f"{top}/home/user", 1000, 100)
		    os.setxattr(f"{top}/usr/bin/same-tool", "security.capability",
		                bytes([1, 0, 0, 2, 0, 4] + [0] * 14))
	END
}

# A store in a folder: needs no root.
folder_store() {
	cs init --path "$scratch/folder"
	[ "$rc" -eq 0 ] || skip "no store: $err"
}

# A store on a Btrfs image of (size), below (folder).
image_store() {
	[ "$(id -u)" -eq 0 ] || skip "not root"
	[ -e /dev/loop-control ] || skip "no loop devices"
	cs init --size "$1"
	[ "$rc" -eq 0 ] || skip "no store: $err"
}

# Nothing half-made or half-removed is in the store, nor a template besides (names).
only_templates() {
	local found

	found=$(find "$store/templates/" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort | tr '\n' ' ')
	[ "$found" = "$*${*:+ }" ] || {
		printf '    | templates: %s, wanted: %s\n' "$found" "$*"
		return 1
	}
}

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What comes out of a root image, mounted, is what went in: from a folder, a tar and a cpio, as EROFS
# and as ext4; kinds, owners, modes, times, contents, holes, hard links, devices, attributes, ACLs.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

[ "$(id -u)" -eq 0 ] || skip "not root"
[ -e /dev/loop-control ] || skip "no loop devices"
grep -qw erofs /proc/filesystems || modprobe erofs 2>/dev/null || skip "this kernel has no EROFS"
folder_store
fake_kernel "$kernel" 6.12.1-clearstore 1
fake_root "$scratch/root"
mkdir "$scratch/mounted"
# ACLs in the kernel's own form: user 1234 and group 99 besides, and a default for what is made.
acl() {
	python3 - "$1" "$2" <<-'END'
		import os, struct, sys
		rows = [(1, 6, -1), (2, 7, 1234), (4, 4, -1), (8, 4, 99), (16, 7, -1), (32, 4, -1)]
		value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)
		os.setxattr(sys.argv[1], f"system.posix_acl_{sys.argv[2]}", value)
	END
}
acl "$scratch/root/etc/file-7" access 2>/dev/null && acl "$scratch/root/var/empty" default ||
	echo "# ACLs are not tried: not on the file system of $scratch"

# compare FOLDER MOUNTED [times]: the differences, one a line.
compare() {
	python3 - "$@" <<-'END'
		import os, stat, sys
		a, b, times = sys.argv[1], sys.argv[2], "times" in sys.argv[3:]
		own = {"sbin/clearstore-agent", "usr/sbin/clearstore-agent", "lost+found", "proc", "sys", "dev",
		       "run", "tmp"}
		links = {}
		def walk(top):
		    for folder, dirs, files in os.walk(top):
		        for name in dirs + files:
		            yield os.path.relpath(os.path.join(folder, name), top)
		def xattrs(path):
		    return {n: os.getxattr(path, n, follow_symlinks=False)
		            for n in os.listxattr(path, follow_symlinks=False)}
		def digest(path):
		    # of the data only, and where it is: a file of 16 GiB of holes is not read
		    out = []
		    with open(path, "rb") as f:
		        at, end = 0, os.fstat(f.fileno()).st_size
		        while at < end:
		            try:
		                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
		            except OSError:
		                break
		            hole = os.lseek(f.fileno(), at, os.SEEK_HOLE)
		            f.seek(at)
		            data = f.read(hole - at)
		            for i in range(0, len(data), 4096):
		                block = data[i:i + 4096]
		                if block.strip(b"\0"):
		                    out.append((at + i, hash(block.rstrip(b"\0"))))
		            at = hole
		    return out
		here, there = set(walk(a)), set(walk(b))
		for path in sorted(here ^ there):
		    if path not in own:
		        print(f"{path}: only on one side")
		for path in sorted(here & there):
		    x, y = os.lstat(f"{a}/{path}"), os.lstat(f"{b}/{path}")
		    for what in "st_mode st_uid st_gid st_rdev".split():
		        if getattr(x, what) != getattr(y, what):
		            print(f"{path}: {what} {getattr(x, what)} {getattr(y, what)}")
		    if not stat.S_ISDIR(x.st_mode):
		        if x.st_nlink != y.st_nlink:
		            print(f"{path}: {x.st_nlink} {y.st_nlink} links")
		        links.setdefault(x.st_ino, set()).add(y.st_ino)
		    mtime = (x.st_mtime_ns, y.st_mtime_ns) if times else (int(x.st_mtime), int(y.st_mtime))
		    if mtime[0] != mtime[1]:
		        print(f"{path}: mtime {mtime}")
		    if xattrs(f"{a}/{path}") != xattrs(f"{b}/{path}"):
		        print(f"{path}: attributes {xattrs(f'{a}/{path}')} {xattrs(f'{b}/{path}')}")
		    if stat.S_ISLNK(x.st_mode) and os.readlink(f"{a}/{path}") != os.readlink(f"{b}/{path}"):
		        print(f"{path}: target")
		    if stat.S_ISREG(x.st_mode):
		        if x.st_size != y.st_size or digest(f"{a}/{path}") != digest(f"{b}/{path}"):
		            print(f"{path}: contents")
		for ino, there in links.items():
		    if len(there) != 1:
		        print(f"inode {ino}: torn apart")
		print("compared")
	END
}

export PYTHONHASHSEED=1
tar -C "$scratch/root" --sparse --acls --xattrs --xattrs-include='*' --format=pax -cf "$scratch/root.tar" .

try() {
	local name=$1 from=$2 format=$3

	cs template add "$name" --from "$from" --root-format "$format"
	is "$name: added" 0 "$rc"
	[ "$rc" -eq 0 ] || return 0
	is "$name: a multiple of 2 MiB" 0 "$(($(stat -c %s "$store/templates/$name/1/root") % 2097152))"
	mount -o loop,ro,nodev,nosuid "$store/templates/$name/1/root" "$scratch/mounted"
	out=$(compare "$4" "$scratch/mounted" "${@:5}" | head -n 20)
	umount "$scratch/mounted"
	is "$name: the same on both sides" compared "$out"
	if [ "$format" = ext4 ]; then
		claim "$name: fsck finds nothing" e2fsck -fn "$store/templates/$name/1/root" >/dev/null 2>&1
	elif command -v fsck.erofs >/dev/null; then
		claim "$name: fsck finds nothing" fsck.erofs "$store/templates/$name/1/root" >/dev/null
	fi
}

try folder "$scratch/root" erofs "$scratch/root" times
try tar "$scratch/root.tar" erofs "$scratch/root" times
# mke2fs keeps whole seconds only.
try folder-ext4 "$scratch/root" ext4 "$scratch/root"
try tar-ext4 "$scratch/root.tar" ext4 "$scratch/root"
# A cpio has no attributes and no fractions of a second; the file of holes would be 16 GiB in it.
cp -a "$scratch/root" "$scratch/plain"
rm "$scratch/plain/var/sparse"
python3 - "$scratch/plain" <<-'END'
	import os, sys
	for folder, dirs, files in os.walk(sys.argv[1]):
	    for path in (os.path.join(folder, name) for name in dirs + files):
	        for name in os.listxattr(path, follow_symlinks=False):
	            os.removexattr(path, name, follow_symlinks=False)
END
(cd "$scratch/plain" && find . -print0 | cpio --quiet -0 -o -H newc >"$scratch/root.cpio")
try cpio "$scratch/root.cpio" erofs "$scratch/plain"
finish

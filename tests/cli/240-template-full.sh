#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A store that is too small, and a disk under it that is: template add says so in one line, early where
# it can, leaves nothing behind, and what is there goes on working.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

image_store 256M
fake_kernel "$kernel" 6.12.1-clearstore 2
mkdir "$scratch/small" "$scratch/large"
head -c 30M /dev/urandom >"$scratch/small/file"
for ((i = 0; i < 6; i++)); do
	head -c 45M /dev/urandom >"$scratch/large/file-$i"
done
full='remove a template, or make room'

cs template add small --from "$scratch/small"
is "a small one fits" 0 "$rc"
fails 1 "$full" template add large --from "$scratch/large"
claim "nothing is left of it" only_templates small
tar -C "$scratch/large" -cf "$scratch/large.tar" .
fails 1 "$full" template add large --from "$scratch/large.tar"
fails 1 "$full" template add large --from "$scratch/large" --root-format ext4
mkdir "$scratch/one"
head -c 260M /dev/urandom >"$scratch/one/huge"
tar -C "$scratch/one" -cf "$scratch/one.tar" .
fails 1 "entry './huge': is longer than the store has room" template add large --from "$scratch/one.tar"

# A bomb: 400 MiB of zeroes in 2 MB. Refused when the room is used up, before its end.
python3 - <<-'END' | gzip -1 >"$scratch/bomb.tar.gz"
	import sys, tarfile
	out = sys.stdout.buffer
	block = b"\0" * (1 << 20)
	for i in range(20):
	    e = tarfile.TarInfo(f"zeroes-{i}"); e.size = 20 << 20
	    out.write(e.tobuf())
	    for _ in range(20):
	        out.write(block)
	out.write(b"\0" * 1024)
END
fails 1 "$full" template add bomb --from "$scratch/bomb.tar.gz"
python3 - "$scratch/exbi.tar" <<-'END'
	import sys, tarfile
	with open(sys.argv[1], "wb") as f:
	    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "exbi",
	           "GNU.sparse.realsize": str(1 << 60)}
	    e = tarfile.TarInfo("GNUSparseFile.0/exbi"); e.size = 1024; e.pax_headers = pax
	    f.write(e.tobuf(tarfile.PAX_FORMAT))
	    f.write(b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512 + b"\0" * 1024)
END
fails 1 "entry 'exbi': 1024.0 PiB is longer than a file may be" template add x --from "$scratch/exbi.tar"
claim "nothing is left of all these" only_templates small
cs template verify small
is "what was there is whole" 0 "$rc"
cs template remove small
is "and can be removed" 0 "$rc"

# Filled to the brim by something else while it works.
dd if=/dev/urandom of="$store/guests/filler" bs=1M count=300 status=none 2>/dev/null || true
fails 1 "$full" template add small --from "$scratch/small"
rm "$store/guests/filler"
sync -f "$store"
cs template add small --from "$scratch/small"
is "with room again it works" 0 "$rc"
cs template remove small
cs init --undo
is "the store is taken back" 0 "$rc"

# The image promises 1 GiB, the disk under it has 200 MiB.
mkdir "$scratch/disk"
mount -t tmpfs -o size=200M none "$scratch/disk"
store=$scratch/disk/store
export CLEARSTORE_STORE=$store
cs init --size 1G
is "a store larger than its disk: made" 0 "$rc"
claim "with a warning" has "$err" 'less than its'
fails 1 "$full" template add large --from "$scratch/large"
# What the failed one had taken goes back to the disk a while later: Btrfs discards by and by.
for _ in {1..90}; do
	cs template add small --from "$scratch/small"
	[ "$rc" -ne 0 ] || break
	sync -f "$store"
	sleep 1
done
is "what fits is taken" 0 "$rc"
cs template verify small
is "and whole" 0 "$rc"
umount "$store"
finish

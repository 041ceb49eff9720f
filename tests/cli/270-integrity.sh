#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A bit that flips: found by verify and by scrub, the version comes into quarantine and out again; by
# the kernel itself where it has fs-verity. A bit on the disk under a cached page is found by scrub.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

fake_kernel "$kernel" 6.12.1-clearstore 1
fake_root "$scratch/root"
python3 -c 'print("needle-in-" + "haystack" * 1000)' >"$scratch/root/etc/needle"

field() {
	python3 -c 'import json, sys
found = json.load(sys.stdin)
print(found[sys.argv[1]])' "$@" <"$scratch/out"
}

# Turn a bit of FILE, there and back.
flip() {
	python3 - "$1" <<-'END'
		import mmap, os, sys
		fd = os.open(sys.argv[1], os.O_RDWR)
		m = mmap.mmap(fd, 0)
		at = m.find(b"eedle-in-") - 1
		assert at >= 0, "no needle"
		m[at] ^= 1
		m.flush()
		os.fsync(fd)
	END
}

# In a folder. Where temporary files are on Btrfs a version is sealed, and nobody turns bits in it by
# hand; where the kernel guards its files neither.
in_folder() {
	if [ "$(stat -f -c %T "$scratch")" = btrfs ]; then
		echo "# not tried in a folder: the one for temporary files is on Btrfs"
		return
	fi
	folder_store
	cs template add web --from "$scratch/root"
	cs template show web --json
	if [ "$(field guarded)" = True ]; then
		echo "# not tried in a folder: this kernel guards its files"
		return
	fi
	claim "show says that scrub is what checks" has "$(field integrity)" scrub
	cs template update web --append x --activate
	# not the same file in both versions
	chmod u+w "$store/templates/web/2"
	cp --remove-destination "$store/templates/web/1/root" "$store/templates/web/2/root"
	chmod u+w "$store/templates/web/2/root"
	cs template verify --all
	is "all whole" 0 "$rc"
	claim "a line for each version" [ "$(wc -l <<<"$out")" -eq 3 ]

	flip "$store/templates/web/2/root"
	cs scrub
	is "scrub finds it" 1 "$rc"
	claim "says which part" has "$err" "template 'web': part 'root' is damaged"
	claim "and which versions are whole" grep -qE '^web +1 .* yes +-$' <<<"$out"
	claim "and which not" grep -qE '^web +2 .* no ' <<<"$out"
	fails 1 "version '2' is in quarantine: template 'web': part 'root' is damaged" spawn web
	claim "with the way out" has "$err" 'clearstore template rollback web'
	cs template list
	claim "list says so" grep -q '^web .*in quarantine' <<<"$out"
	cs template show web --json
	claim "show, too" has "$(field quarantine)" 'is damaged'
	fails 1 'in quarantine' template activate web 2
	cs template rollback web
	is "the version before is there" '0 web: new guests get version 1' "$rc $out"
	flip "$store/templates/web/2/root"
	cs template verify web@2
	is "whole again" 0 "$rc"
	cs template activate web 2
	is "it is out of quarantine" 0 "$rc"
	truncate -s -1M "$store/templates/web/2/root"
	cs template verify web@2
	is "a part that lost its end: status" 1 "$rc"
	claim "says so" has "$err" 'not the file of'
	fails 2 'no template given' template verify
	fails 2 'not both' template verify --all web
	fails 2 'Too many arguments' scrub web
}

in_folder
if [ -e "$store" ]; then
	chmod -R u+w "$scratch/folder"
	rm -rf "$store" "$scratch/folder"
fi
image_store 512M
cs template add web --from "$scratch/root"
cat "$store/templates/web/1/root" >/dev/null
sync -f "$store"
flip "$store.img"
cs template show web --json
if [ "$(field guarded)" = True ]; then echo "# this kernel has fs-verity"; fi
cs scrub
is "a bit on the disk, under what is cached: status" 1 "$rc"
claim "it is said which part" has "$err" "part 'root'"
fails 1 'in quarantine' spawn web
flip "$store.img"
cs scrub
is "turned back: whole" 0 "$rc"

# A part that is replaced by hand: with fs-verity that is seen at once.
cs template show web --json
if [ "$(field guarded)" = True ]; then
	claim "show says that the kernel checks" has "$(field integrity)" 'fs-verity'
	btrfs property set "$store/templates/web/1" ro false
	written=yes
	(echo x >>"$store/templates/web/1/root") 2>/dev/null || written=no
	is "nobody can write to it" no "$written"
	cp --remove-destination "$store/templates/web/1/root" "$scratch/copy"
	mv "$scratch/copy" "$store/templates/web/1/root"
	fails 1 'fs-verity is gone' spawn web
fi
finish

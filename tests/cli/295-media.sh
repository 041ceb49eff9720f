#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# template add --media, template move: refused where there is no DAX; on a real DAX file system
# (scripts/testbed) added, moved and killed at random moments, and never in the page cache.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

fake_kernel "$kernel" 6.12.1-clearstore 1
fake_root "$scratch/root"
head -c 20M /dev/urandom >"$scratch/root/large"

folder_store
mkdir "$scratch/plain"
fails 1 'is not on DAX' template add web --from "$scratch/root" --media "fsdax:$scratch/plain"
fails 1 "cannot make '$scratch/none/clearstore-" template add web --from "$scratch/root" --media "fsdax:$scratch/none"
fails 1 "media 'tape'" template add web --from "$scratch/root" --media tape
is "what was refused left nothing" "" "$(find "$scratch/plain" -mindepth 1)"
cs template add web --from "$scratch/root" --media file
is "file is the store" 0 "$rc"
fails 2 '--media: not given' template move web
fails 2 'no template given' template move --media file
fails 1 'is not on DAX' template move web --media "fsdax:$scratch/plain"
cs template versions web --quiet
is "a move that is refused leaves the version there was" 1 "$out"
cs template move web --media auto
is "auto takes what there is" 0 "$rc"
cs template update web --append x
cs template move web@3 --media file
claim "of a version that is not active it is one more" has "$out" 'not active, as web@3 is not, which stays'
cs template versions web --quiet
is "and nothing goes" '2 3 4' "$(xargs <<<"$out")"
cs template rollback web
is "it is not the active one" 1 "$rc"
if [ -z "${CLEARSTORE_TESTBED:-}" ] || [ ! -e /sys/bus/nd/devices/region0 ]; then
	echo "# no DAX here: run it by scripts/testbed"
	finish
fi

cs template remove web
chmod -R u+w "$scratch/folder"
rm -rf "$store" "$scratch/folder"
image_store 512M
ndctl create-namespace -f -e namespace0.0 -m fsdax >/dev/null
mkfs.ext4 -q -b 4096 /dev/pmem0
mkdir "$scratch/disk"
mount -o dax /dev/pmem0 "$scratch/disk"
dax=fsdax:$scratch/disk

field() {
	python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$@" <"$scratch/out"
}

# Pages of the file in the page cache.
cached() {
	fincore --noheadings --bytes --output PAGES "$1" | xargs
}

files() {
	find "$scratch/disk" -name '*@*' | wc -l
}

cs template add web --from "$scratch/root" --media "$dax"
is "added on DAX" 0 "$rc"
cs template show web --json
is "show says so" fsdax "$(field root_media)"
file=$(field lies_at)
claim "and where" test -f "$file"
cs template verify web
is "whole" 0 "$rc"
is "none of it is in the page cache" 0 "$(cached "$file")"
cs template move web --media file
is "moved into the store" 0 "$rc"
cs template verify web
claim "there it is in the page cache" [ "$(cached "$store/templates/web/2/root")" -gt 5000 ]
is "nothing is left on the medium" 0 "$(files)"
cs template move web --media auto
is "auto finds the medium" 0 "$rc"
cs template show web --json
is "and takes it" fsdax "$(field root_media)"

umount "$scratch/disk"
cs template add plain --from "$scratch/root"
cs template list
claim "not mounted: said of its template" grep -q '^web .*is not there (mount' <<<"$out"
claim "the other is there" grep -q '^plain .*erofs' <<<"$out"
fails 1 'mount its file system' spawn web
mount "/dev/pmem0" "$scratch/disk"
fails 1 'is not on DAX' spawn web
umount "$scratch/disk"
mount -o dax /dev/pmem0 "$scratch/disk"
cs template remove plain

RANDOM=99
kills=${CLEARSTORE_TEST_KILLS:-25}
for ((i = 0; i < kills; i++)); do
	to=$dax
	[ $((i % 2)) -eq 0 ] || to='file'
	"$program" template move web --media "$to" >/dev/null 2>&1 &
	sleep "0.$(printf '%03d' $((RANDOM % 900)))"
	kill -9 $! 2>/dev/null || true
	wait $! 2>/dev/null || true
	cs store check
	is "move killed ($i): the store is well" 0 "$rc"
	cs template verify web
	is "move killed ($i): the active version is whole" 0 "$rc"
	cs template prune web --keep 1
	is "move killed ($i): no half-made version" 2 "$(find "$store/templates/web" -mindepth 1 -maxdepth 1 | wc -l)"
	cs template show web --json
	wanted=$([ "$(field root_media)" = fsdax ] && echo 1 || echo 0)
	is "move killed ($i): nothing too much on the medium" "$wanted" "$(files)"
done
umount "$scratch/disk"

# A DAX device: the root in an extent of its own.
cs template remove web
dd if=/dev/zero of=/dev/pmem0 bs=1M count=16 conv=fsync status=none
ndctl create-namespace -f -e namespace0.0 -m devdax --align 2M >/dev/null
dev=devdax:/dev/dax0.0
cs template add web --from "$scratch/root" --media "$dev"
is "added on a DAX device" 0 "$rc"
cs template add db --from "$scratch/root" --media "$dev"
is "two" 0 "$rc"
cs template verify --all
is "both whole" 0 "$rc"
cs template show db --json
is "show says where" 'devdax /dev/dax0.0' "$(field root_media) $(field lies_at)"
cs template remove web
cs template move db --media file
is "moved into the store" 0 "$rc"
cs template verify db
is "whole there" 0 "$rc"
for ((i = 0; i < (kills + 1) / 2; i++)); do
	"$program" template move db --media "$dev" >/dev/null 2>&1 &
	sleep "0.$(printf '%03d' $((RANDOM % 900)))"
	kill -9 $! 2>/dev/null || true
	wait $! 2>/dev/null || true
	cs store check
	is "move to a device killed ($i): the store is well" 0 "$rc"
	cs template verify db
	is "move to a device killed ($i): the active version is whole" 0 "$rc"
	cs template move db --media file
	cs template prune db --keep 1
done
ndctl disable-namespace namespace0.0 >/dev/null
cs template verify db
is "without the device what is in the store is there" 0 "$rc"
finish

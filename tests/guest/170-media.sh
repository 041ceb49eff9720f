#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Guests of a template whose parts lie on persistent memory: in a file on DAX, and on a device. They read
# what guests of the page cache read, and the host's page cache does not hold it. MEDIA_GUESTS: how many on
# each medium. Only where there is an NVDIMM of 512 MiB to do with as we like (scripts/testbed).
alone=1
if [ -z "${CLEARSTORE_TESTBED:-}" ] || [ ! -e /sys/bus/nd/devices/region0 ]; then
	echo "skipped: no NVDIMM that may be written to (scripts/testbed has one)"
	exit 77
fi
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
count=${MEDIA_GUESTS:-3}

# Half for a file system, half for a device. Only with labels can it be divided.
for step in "disable-region region0" "init-labels -f nmem0" "enable-region region0"; do
	# shellcheck disable=SC2086 # words
	claim "ndctl $step" ndctl $step
done
half=$(($(cat /sys/bus/nd/devices/region0/size) / 2 / (16 << 20) * (16 << 20)))
space() {
	ndctl create-namespace -r region0 -s "$half" "$@" 2>/dev/null | python3 -c 'import json, sys
made = json.load(sys.stdin)
print("/dev/" + (made.get("blockdev") or made["daxregion"]["devices"][0]["chardev"]))'
}
block=$(space -m fsdax)
device=$(space -m devdax --align 2M)
mkfs.ext4 -q -b 4096 "$block"
mkdir "$scratch/pmem"
mount -o dax "$block" "$scratch/pmem"

# shellcheck disable=SC2317 # by the trap
unmount() {
	! mountpoint -q "$scratch/pmem" || umount "$scratch/pmem"
	cleanup
}
trap unmount EXIT

# A template of its own: it goes from one medium to the next, and the fixture's stays.
cs spawn tiny --name "$me-0" --wait >/dev/null
cs save "$me-0" "$me" >/dev/null
cs remove --force "$me-0"
rc=0
"$top/scripts/measure-media" --template "$me" --count "$count" --media "file,fsdax:$scratch/pmem,devdax:$device" \
	--name "$me-m" --settle 5 --json "$scratch/media" --store "$store" --program "$program" 8>&- 9>&- || rc=$?
is "$count guests and one on each medium read the same" 0 "$rc"
of() {
	python3 -c 'import json, sys
media = {m["medium"]: m for m in json.load(open(sys.argv[1]))["media"]}
print(eval(sys.argv[2]))' "$scratch/media" "$1"
}
is "all three were there" "devdax file fsdax" "$(of '" ".join(sorted(media))')"
is "in the page cache the root is there when it was read" True \
	"$(of "media['file']['root_cached_bytes'] >= $big_mib << 20")"
is "a root on a DAX file system is not" 0 "$(of 'media["fsdax"]["root_cached_bytes"]')"
is "on fsdax the page cache grows by less than the file" True \
	"$(of "media['fsdax']['cache_grew_bytes'] < $big_mib << 20")"
is "on fsdax it grows by less than on file, by most of the root" True \
	"$(of "media['file']['cache_grew_bytes'] - media['fsdax']['cache_grew_bytes'] > ($big_mib << 20) * 3 // 4")"
is "on devdax, too" True \
	"$(of "media['file']['cache_grew_bytes'] - media['devdax']['cache_grew_bytes'] > ($big_mib << 20) * 3 // 4")"
claim "move back, whole" cs template verify "$me"
claim "the template goes" cs template remove "$me"
finish

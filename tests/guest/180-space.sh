#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Room: a guest's own disk is full, and it alone hears of it; what it removes goes back to the store, and from
# there to the disk under it. The store is full, or the disk under it: guests that write wait, others go on,
# nothing is lost. Guests with a disk boot, so where their kernel is emulated this is run by hand
# (SPACE_GUESTS=1).
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
! emulated || [ -n "${SPACE_GUESTS:-}" ] || skip "guests with a disk boot, which takes long here (SPACE_GUESTS=1)"

# A store of its own, on a disk of its own.
mkdir "$scratch/disk"
truncate -s 1500M "$scratch/disk.img"
mkfs.ext4 -q -F "$scratch/disk.img"
mount -o loop "$scratch/disk.img" "$scratch/disk"
shared=$store
store=$scratch/disk/store

# shellcheck disable=SC2317 # by the trap
unmount() {
	"$program" --store "$store" list --quiet 8>&- 9>&- | xargs -r "$program" --store "$store" remove --force 8>&- 9>&-
	! mountpoint -q "$store" || umount "$store"
	umount "$scratch/disk"
	store=$shared
	cleanup
}
trap unmount EXIT

make_tiny "$scratch/root"
cs init --size 1G >/dev/null
cs template add tiny --from "$scratch/root" --kernel "$kernel" >/dev/null
# Where the kernel has simple quotas; elsewhere the size of the disk is the limit.
quotas=no
if said=$(cs store quotas 2>&1); then quotas=yes; else claim "quotas are refused with words" grep -q 'Linux 6.7' <<<"$said"; fi
disk_of() {
	find "$store/guests/$1" -name disk
}
three() {
	cs spawn tiny --disk 64M --name "$me-a" && cs spawn tiny --disk 256M --name "$me-b" &&
		cs spawn tiny --name "$me-c" --wait && eventually 300 cs ping "$me-a" && eventually 300 cs ping "$me-b"
}
claim "three guests, two with disks of their own size" three
is "each has what it asked for" "67108864 268435456 0" "$(for g in a b c; do field "$me-$g" disk_bytes; done | xargs | sed 's/ -$/ 0/')"

# ---- the guest's own limit
fill() {
	# shellcheck disable=SC2016 # the guest's
	cs exec "$1" -- sh -c 'i=0; while cat /big >/fill-$i; do i=$((i + 1)); done' 2>&1
}
claim "what is over it is refused" grep -q 'No space left' <<<"$(fill "$me-a" || true)"
claim "in that guest only" cs exec "$me-b" -- sh -c 'cat /big >/mine && sync'
mib() {
	echo $(($(stat -c %b "$1") / 2048))
}
large=$(mib "$(disk_of "$me-a")")
claim "its disk took $large MiB of the store, no more than 64" test "$large" -gt 24 -a "$large" -le 64
sync -f "$store"
image=$(mib "$store.img")

# ---- what is removed comes back
cs exec "$me-a" -- sh -c 'rm /fill-* && sync'
smaller() {
	[ "$(mib "$1")" -lt "$2" ]
}
claim "what it removes is a hole in its disk" eventually 60 smaller "$(disk_of "$me-a")" $((large - 20))
cs store trim >/dev/null
claim "and in the store's image: $image MiB, then $(mib "$store.img")" smaller "$store.img" $((image - 20))
claim "it goes on" cs exec "$me-a" -- sh -c 'cat /big >/again && sync && cmp /big /again'

# ---- no room in the store, and under it
# full: not a block of the store is left; under: of the disk under it some MiB.
take_room() {
	local free

	if [ "$1" = full ]; then
		for block in 1M 4k; do
			dd if=/dev/zero of="$2" bs=$block oflag=append conv=notrunc 2>/dev/null || sync -f "$store"
		done
	else
		free=$(($(stat -f -c '%a * %S / 1048576' "$(dirname "$2")")))
		fallocate -l "$((free - 6))M" "$2"
	fi
}
write_on() {
	cs exec "$me-b" -- sh -c "cat /big >/$1-1 && cat /big >/$1-2 && cat /big >/$1-3 && sync && cmp /big /$1-3 && echo whole" \
		>"$scratch/$1" 2>&1 &
	writer=$!
}
waits() {
	[ "$(field "$1" disk_waits)" = yes ]
}
still_there() {
	kill -0 "$writer" 2>/dev/null && [ ! -s "$scratch/$1" ]
}
comes() {
	local said

	said=$(cs spawn tiny --name "$1" 2>&1) || [[ $said == *"No space left"* ]]
}
for kind in full under; do
	file=$store/filler
	[ "$kind" = full ] || file=$scratch/disk/filler
	take_room "$kind" "$file"
	write_on "$kind"
	claim "$kind: who writes waits" eventually 60 waits "$me-b"
	sleep 3
	claim "$kind: and is told nothing wrong" still_there "$kind"
	claim "$kind: it answers" cs ping "$me-b"
	is "$kind: who does not write goes on" here "$(cs exec "$me-c" -- echo here)"
	claim "$kind: a new guest comes, or is told" comes "$me-$kind"
	is "$kind: it is not parked with what waits" 1 "$(status_of cs park "$me-b")"
	rm "$file"
	sync -f "$scratch/disk"
	wait "$writer" || true
	is "$kind: with room again it goes on, and nothing is lost" whole "$(cat "$scratch/$kind")"
	claim "$kind: the store is well" cs store check
done
again() {
	cs stop "$me-b" && cs start --wait "$me-b" && cs exec "$me-b" -- sh -c "cmp /big /full-2 && cmp /big /under-2"
}
claim "what was written is there after a stop and a start" again

# ---- who writes long runs and then all but a block of each holds more than the length of the disk
hoard() {
	python3 -c 'import os, sys
disk, layers = os.open(sys.argv[1], os.O_RDWR), 0
bytes_ = os.fstat(disk).st_size
try:
    for layer in range(1, 20):
        for at in range(layer << 12, bytes_, 1 << 20):
            os.pwrite(disk, os.urandom(min(1 << 20, bytes_ - at)), at)
        os.fsync(disk)
        layers = layer
except OSError as error: print(error.strerror, end=" ")
print(layers)' "$1"
}
if [ "$quotas" = yes ]; then
	cs stop --time 1 "$me-a" >/dev/null
	is "such a one is stopped" "Disk quota exceeded" "$(hoard "$(disk_of "$me-a")" | sed 's/ [1-4]$//')"
	claim "and can be removed" cs remove "$me-a"
	claim "the store is well" cs store check
fi
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What a guest frees goes back to the host by itself; a balloon takes more.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

guest=$me-a
# 500 MiB are an hour's work where guest kernels are emulated.
if emulated; then used=6 memory=128M; else used=500 memory=768M; fi

# Private memory of the guest, in KiB.
dirty() {
	awk '/^Private_Dirty/ { print $2 }' "/proc/$(field "$guest" pid)/smaps_rollup"
}

# It is not LIMIT KiB over what it was: fell_back LIMIT
fell_back() {
	[ $(($(dirty) - floor)) -lt "$1" ]
}

claim "a guest is spawned" cs spawn tiny --name "$guest" --memory "$memory" --wait
cs exec "$guest" -- mkdir -p /mnt/t
cs exec "$guest" -- mount -t tmpfs -o size=600M none /mnt/t
# What the programs themselves leave in the guest's memory, page cache and all, is not what this is about.
cs exec "$guest" -- dd if=/dev/zero of=/mnt/t/f bs=1M count=1
cs exec "$guest" -- rm /mnt/t/f
sleep 6
floor=$(dirty)
echo "at the beginning: $floor KiB"
claim "it fills $used MiB" cs exec "$guest" -- dd if=/dev/zero of=/mnt/t/f bs=1M count="$used"
high=$(dirty)
echo "in use: $high KiB"
claim "which costs the host as much" test $((high - floor)) -gt $((used * 1024 * 8 / 10))
cs exec "$guest" -- rm /mnt/t/f
since=$SECONDS
claim "what it has freed comes back within 10 s" eventually 10 fell_back $((used * 1024 / 20 + 2048))
echo "freed: $(dirty) KiB after $((SECONDS - since)) s"
claim "show tells how much it gave back" test "$(field "$guest" reported_bytes)" -gt $((used * 900000))

# ---- by hand
actual() {
	cs balloon "$guest" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["actual_bytes"])'
}
total=$(actual)
is "without a balloon all of it is the guest's" "$(field "$guest" ram_bytes)" "$total"
target=$((total - (4 << 20)))
claim "it is asked to do without 4 MiB" cs balloon "$guest" "$target" --wait
is "and does" "$target" "$(actual)"
is "show says so" "$target" "$(field "$guest" actual_bytes)"
claim "it still answers" cs exec "$guest" -- true
claim "it gets all back" cs balloon "$guest" all --wait
is "and has it" "$total" "$(actual)"
is "more than it has is refused" 1 "$(status_of cs balloon "$guest" $((total + 4096)))"
is "less than a kernel needs is refused" 1 "$(status_of cs balloon "$guest" 1M)"
is "what is no size is refused" 1 "$(status_of cs balloon "$guest" little)"
claim "it is removed" cs remove --force "$guest"
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Many guests of one template: their names, what they share, and that one's death harms no other.
# MANY_GUESTS (4) says how many.
alone=1
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
many=${MANY_GUESTS:-4}

out=$(cs spawn tiny --name "$me" --count "$many" --memory 96M --wait)
want=$(for ((i = 1; i <= many; i++)); do echo "$me-$i"; done)
is "spawn --count prints the names" "$want" "$out"
is "which list has, in order" "$want" \
	"$(cs list --quiet | grep "^$me-")"
for guest in $want; do
	is "$guest knows its name" "$guest" "$(cs exec "$guest" -- hostname)"
done

# Each reads the same 50 MiB. One copy of them is in the host's page cache, which MemAvailable counts
# as available; copies in the guests would not be.
available() {
	awk '/^MemAvailable:/ { print $2 }' /proc/meminfo
}
read_big() {
	cs exec "$1" -- sha256sum /big | cut -d' ' -f1
}
before=$(available)
for guest in $want; do
	read_big "$guest" >"$scratch/$guest.sum" &
done
wait
after=$(available)
is "all of them read the same" 1 "$(cat "$scratch"/*.sum | sort -u | wc -l)"
below "$many guests reading 50 MiB each raise host memory by less than 5 MiB each, in KiB" \
	$((many * 5 * 1024)) $((before - after))

# kill -9 of one: the others run on, the next command finds the store clean.
first=$me-1
pid=$(field "$first" pid)
kill -KILL "$pid"
gone() {
	! kill -0 "$pid" 2>/dev/null
}
eventually 20 gone
for guest in $want; do
	[ "$guest" = "$first" ] || claim "$guest runs on after kill -9 of $first" cs ping "$guest"
done
is "the dead one is shown as crashed" crashed "$(field "$first" state)"
is "its sockets are gone" "" "$(find "$store/guests/$first" -name '*.sock*')"
claim "it can be started again" cs start "$first"
eventually 120 cs ping "$first"
claim "the template is unharmed" cs template verify tiny
finish

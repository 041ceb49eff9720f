#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Many guests of one template: their names, what they share, and that one's death harms no other.
# MANY_GUESTS (6) says how many; MANY_READERS of them (4) read a large file, which takes a guest a
# minute where its kernel is emulated.
alone=1
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
many=${MANY_GUESTS:-6} readers=${MANY_READERS:-4}

out=$(cs spawn tiny --name "$me" --count "$many" --wait)
want=$(for ((i = 1; i <= many; i++)); do echo "$me-$i"; done)
is "spawn --count prints the names" "$want" "$out"
is "which list has, in order" "$want" \
	"$(cs list --quiet | grep "^$me-")"
for guest in $want; do
	is "$guest knows its name" "$guest" "$(cs exec "$guest" -- hostname)"
done

# Each reads the same large file. One copy of it is in the host's page cache; copies that guests made
# would be their monitors' anonymous memory. (What the host has available says the same, but moves by
# tens of MiB on its own.)
private() {
	local i

	for ((i = 1; i <= readers; i++)); do
		cat "/proc/$(field "$me-$i" pid)/smaps_rollup"
	done | awk '/^Anonymous:/ { sum += $2 } END { print sum }'
}
read_big() {
	cs exec "$1" -- sha256sum /big | cut -d' ' -f1
}
before=$(private)
for ((i = 1; i <= readers; i++)); do
	read_big "$me-$i" >"$scratch/$me-$i.sum" &
done
wait
after=$(private)
is "all of them read the same" 1 "$(cat "$scratch"/*.sum | sort -u | wc -l)"
below "$readers guests reading $big_mib MiB each grow by less than a tenth of it each, in KiB" \
	$((readers * big_mib * 1024 / 10)) $((after - before))
# Nor does the guest's own page cache have the file: it is read where it lies.
cached=$(cs exec "$me-1" -- awk '/^Cached:/ { print $2 }' /proc/meminfo)
below "a reader's page cache in KiB" $((big_mib * 1024 / 2)) "$cached"

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

write_all_over() {
	cs exec "$1" -- sh -c 'echo mine >/big; rm -rf /etc /usr; mkdir /etc; echo "$(hostname)" >/etc/passwd
		ln -sf /etc/passwd /bin/busybox-too; cat /etc/passwd'
}
for guest in $want; do
	write_all_over "$guest" >"$scratch/$guest.wrote" &
done
wait
is "all of them write all over their roots" "$want" "$(for guest in $want; do cat "$scratch/$guest.wrote"; done)"
claim "the template is unharmed" cs template verify tiny
claim "and a new guest has all that they removed" sh -c \
	"'$program' --store '$store' run tiny --name '$me-new' -- sh -c 'test -s /etc/group && sha256sum /big' | grep -q \"$(cat "$scratch/$me-2.sum")\""
finish

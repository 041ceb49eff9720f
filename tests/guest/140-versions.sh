#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Guests of a template that is updated, switched, rolled back and pruned: none is disturbed, each reads
# its own version, new ones get the active one. All the while every guest is pinged, one after the other.
# VERSION_GUESTS: how many.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
count=${VERSION_GUESTS:-10}
mine=$me-v
# what a killed run left
cs template remove "$mine" >/dev/null 2>&1 || true

# A template of its own, from a guest that runs: it has the tiny root, and need not boot.
cs spawn tiny --name "$me-0" --wait >/dev/null
cs save "$me-0" "$mine" >/dev/null
cs remove --force "$me-0"

# Half of the guests have the first version, half the second, with another root; all go on from a
# saved machine.
first=$((count / 2)) second=$((count - count / 2))
cs spawn "$mine" --count "$first" --name "$me-a" --wait >/dev/null
make_tiny "$scratch/root"
head -c 1000 /dev/urandom >>"$scratch/root/big"
claim "update" cs template update "$mine" --from "$scratch/root" --activate
claim "and its machine" cs template warm "$mine"
now=$(cs template versions "$mine" --quiet | tail -n 1)
cs spawn "$mine" --count "$second" --name "$me-b" --wait >/dev/null

guests=()
for ((i = 1; i <= first; i++)); do guests+=("$me-a-$i"); done
for ((i = 1; i <= second; i++)); do guests+=("$me-b-$i"); done
of_version() {
	cs list --json | python3 -c 'import json, sys
print(sum(g["name"].startswith(sys.argv[1]) and g["version"] == sys.argv[2] for g in json.load(sys.stdin)))' \
		"$1" "$2"
}
is "$first guests are of the first version" "$first" "$(of_version "$me-a-" 1)"
is "$second of the new one" "$second" "$(of_version "$me-b-" "$now")"

# What each guest is: its process, when it was started, what its root says. Read by two at a time.
who() {
	cs list --json | python3 -c 'import json, sys
for g in sorted(json.load(sys.stdin), key=lambda g: g["name"]):
    if g["name"].startswith((sys.argv[1], sys.argv[2])): print(g["name"], g["pid"], g["version"])' "$me-a-" "$me-b-"
}
sum_of() {
	echo "$1 $("$program" --store "$store" exec "$1" -- tail -c 65536 /big 8>&- 9>&- | md5sum | cut -d ' ' -f 1)"
}
export -f sum_of
export program store
sums() {
	printf '%s\n' "${guests[@]}" | timeout 600 xargs -P 2 -I{} bash -c 'sum_of {}' | sort
}
kinds() {
	sed "s/^$me-\(.\)-[0-9]*/\1/" "$1" | sort | uniq -c | awk '{ print $1, $2 }' | xargs
}
who >"$scratch/who"
sums >"$scratch/sums"
is "the guests of each version read the same" "$first a $second b" "$(kinds "$scratch/sums")"
is "and those of the other another" 2 "$(cut -d ' ' -f 2 "$scratch/sums" | sort -u | wc -l)"

# Ask them for signs of life, in turn, for as long as the file is there.
asking() {
	local guest start ms

	while [ -e "$scratch/ask" ]; do
		for guest in "${guests[@]}"; do
			start=${EPOCHREALTIME/./}
			cs ping --timeout 30 "$guest" >/dev/null 2>&1 || echo "$guest" >>"$scratch/silent"
			ms=$(((${EPOCHREALTIME/./} - start) / 1000))
			echo "$ms" >>"$scratch/ms"
			[ -e "$scratch/ask" ] || break
		done
	done
}
touch "$scratch/ask"
asking &
asking_pid=$!

head -c 1000 /dev/urandom >>"$scratch/root/big"
claim "update, with all of them running" cs template update "$mine" --from "$scratch/root" --activate
third=$(cs template versions "$mine" --quiet | tail -n 1)
is "new guests get it" "$third" "$(
	cs spawn "$mine" --name "$me-new" >/dev/null
	field "$me-new" version
)"
claim "rollback" cs template rollback "$mine"
is "new guests are of the version before, and go on from its machine" "$now $(awk '/-b-/ { print $2; exit }' "$scratch/sums")" "$(
	cs spawn "$mine" --name "$me-old" --wait >/dev/null
	echo "$(field "$me-old" version) $(sum_of "$me-old" | cut -d ' ' -f 2)"
)"
claim "activate" cs template activate "$mine" 1
claim "an update of the command line" cs template update "$mine" --append quiet --activate
last=$(cs template versions "$mine" --quiet | tail -n 1)
claim "prune" cs template prune "$mine" --keep 1
is "what guests have stays" "1 $now $third $last" "$(cs template versions "$mine" --quiet | xargs)"
cs stop --time 2 "$me-old" >/dev/null
cs start --wait "$me-old" >/dev/null
is "a guest stopped and started keeps its version" "$now" "$(field "$me-old" version)"
cs remove --force "$me-new" "$me-old"
claim "prune, when the guest of the third is gone" cs template prune "$mine" --keep 1
is "leaves what is in use and what is active" "1 $now $last" "$(cs template versions "$mine" --quiet | xargs)"
rm "$scratch/ask"
wait "$asking_pid"
is "no guest was silent meanwhile: $(wc -l <"$scratch/ms") pings, the slowest $(sort -n "$scratch/ms" | tail -n 1) ms" \
	"" "$(cat "$scratch/silent" 2>/dev/null)"
who >"$scratch/who-now"
claim "they are the same processes, of the same versions" diff "$scratch/who" "$scratch/who-now"
sums >"$scratch/sums-now"
claim "each reads what it read" diff "$scratch/sums" "$scratch/sums-now"
cs remove --force "${guests[@]}"
claim "the template goes with its last guest" cs template remove "$mine"
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Many guests that one spawn starts from a saved machine wake in turns: each when one before it is awake or
# dead, or when somebody wants it. TURN_GUESTS (20) of them.
alone=1
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
many=${TURN_GUESTS:-20}
at_once=$(getconf _NPROCESSORS_ONLN)
[ "$many" -ge $((6 * at_once + 10)) ] || many=$((6 * at_once + 10))

asleep() {
	[ "$(field "$1" machine)" = booting ]
}
awake() {
	[ "$(field "$1" machine)" = ready ]
}
all_awake() {
	local i

	for ((i = $1; i <= $2; i++)); do
		awake "$me-$i" || return 1
	done
}
# They stand still without a word, and so do all whose turn comes behind theirs.
pids=()
hold_up() {
	local i

	for ((i = first; i < first + at_once; i++)); do
		pids+=("$(sed -n 's/^ *"pid": \([1-9][0-9]*\),$/\1/p' "$store/guests/$me-$i/card.json")")
	done
	kill -STOP "${pids[@]}"
}

# A machine whose clones take a second to wake: on the fastest host there is time to stop some before.
claim "a machine with a slow hook" cs spawn tiny --name "$me-source" --wait
# shellcheck disable=SC2016
claim "has it" cs exec "$me-source" -- sh -c 'mkdir -p /etc/clearstore/wake.d &&
	printf "#!/bin/sh\nsleep 1\n" >/etc/clearstore/wake.d/slow && chmod +x /etc/clearstore/wake.d/slow'
! cs template show "$me-slow" >/dev/null 2>&1 || cs template remove "$me-slow" >/dev/null
claim "and is saved" cs save "$me-source" "$me-slow"
claim "and removed" cs remove --force "$me-source"

first=$((at_once + 1))
last=$((first + at_once - 1))
cs spawn "$me-slow" --name "$me" --count "$many" >"$scratch/names"
hold_up
is "spawn tells all names" "$many" "$(wc -l <"$scratch/names")"
claim "those before the ones held up wake" eventually 60 all_awake 1 $((first - 1))
sleep 2
for ((i = last + 1; i <= many; i++)); do
	claim "$me-$i waits for its turn" asleep "$me-$i"
done
is "one that is wanted wakes at once: exec" "$me-$many" "$(cs exec "$me-$many" -- hostname)"
claim "ping" cs ping "$me-$((many - 1))"
now=$(cs exec "$me-$((many - 2))" -- date +%s)
below "and its clock is right, in seconds it is off" 3 $(($(date +%s) - now + 1))
claim "stop" cs stop "$me-$((many - 3))"
claim "kill" cs kill "$me-$((many - 4))"
claim "remove" cs remove --force "$me-$((many - 5))"
claim "save" cs save "$me-$((many - 6))" "$me-saved"
claim "park" cs park "$me-$((many - 7))"
is "who is parked wakes as itself" "$me-$((many - 7))" "$(cs exec "$me-$((many - 7))" -- hostname)"
claim "the saved one goes on" awake "$me-$((many - 6))"
claim "and its template is one" cs template remove "$me-saved"
for ((i = last + 1; i < many - 7; i++)); do
	claim "$me-$i still waits" asleep "$me-$i"
done

# One dead, one paused, the others go on: all turns come.
paused=$me-$((last + 2))
claim "pause" cs pause "$paused"
kill -KILL "${pids[0]}"
kill -CONT "${pids[@]}" 2>/dev/null || true
claim "those behind a dead one and a late one wake" eventually 60 awake "$me-$((last + 1))"
claim "and those behind a paused one" eventually 60 all_awake $((last + 3)) $((many - 8))
is "which is that still" paused "$(field "$paused" machine)"
claim "resume" cs resume "$paused"
claim "it wakes" eventually 60 awake "$paused"
seen=$(for ((i = last + 1; i < many - 7; i++)); do cs exec "$me-$i" -- cat /proc/sys/kernel/random/boot_id; done)
is "each is another machine" $((many - 8 - last)) "$(sort -u <<<"$seen" | wc -l)"

mapfile -t guests < <(my_guests)
claim "they are removed" cs remove --force "${guests[@]}"
claim "and their template" cs template remove "$me-slow"

# Who spawns is killed: those that it has made wake.
"$program" --store "$store" spawn tiny --name "$me-cut" --count 400 >/dev/null 2>&1 8>&- 9>&- &
spawner=$!
sleep 0.4
kill -KILL "$spawner"
wait "$spawner" || true
sleep 1
some=$(cs list --running --quiet | grep "^$me-cut-" | head -n 6 || true)
claim "a spawner killed half way has made some" test -n "$some"
for guest in $some; do
	running() {
		awake "$guest"
	}
	claim "$guest is awake" eventually 60 running
done
finish

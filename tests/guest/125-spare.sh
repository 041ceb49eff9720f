#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Machines that wait for a name: whoever takes one is a guest like others, and what dies leaves nothing.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

# Its own version of the template, so that no other test takes what waits here, nor does this one
# disturb others: spares are of the version they were made of.
version=''
keeper=''

offers() {
	find "$store/guests/.spares" -mindepth 1 -maxdepth 1 -name "*-tiny@$version" 2>/dev/null | wc -l
}

offered() {
	[ "$(offers)" -eq "$1" ]
}

waiting_pids() {
	find "$store/guests/.spares" -mindepth 1 -maxdepth 1 -name "*-tiny@$version" -printf '%f\n' 2>/dev/null |
		sed 's/-.*//' | sort
}

# Not in a function's subshell: the keeper is to be ours to wait for.
keep() {
	"$program" --store "$store" spare "tiny@$version" --count 2 >"$scratch/keeper" 2>&1 8>&- 9>&- &
	keeper=$!
}

ended() {
	! grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$1/status"
}

all_ended() {
	local pid

	for pid in $1; do ended "$pid" || return; done
}

stop_keeper() {
	local rc=$?

	set +e
	[ -z "$keeper" ] || kill "$keeper" 2>/dev/null
	(exit "$rc") # for cleanup to see
	cleanup
}
trap stop_keeper EXIT

version=$(cs template show tiny --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["version"])')

keep
claim "two machines wait" eventually 30 offered 2
is "the keeper says so" "tiny@$version: 2 spares" "$(cat "$scratch/keeper")"
is "they are no guests" "" "$(cs list --quiet | grep spare || true)"
pids=$(waiting_pids)

# Of a process, in pages: what it has for its own of the memory that it maps from the template.
own_pages() {
	awk '/^[0-9a-f]+-/ { within = $NF ~ /\/memory$/ } within && /^Anonymous:/ { n += $2 / 4 } END { print n + 0 }' \
		"/proc/$1/smaps"
}
wake_pages=$(awk '$1 == "wake" { n += $3 } END { print n + 0 }' "$store/hot/tiny@$version")
claim "each has its own copies of the $wake_pages pages that it is going to write to" \
	test "$wake_pages" -gt 10 -a "$(own_pages "${pids%%$'\n'*}")" -ge "$wake_pages"

claim "a spawn takes one" cs spawn tiny --name "$me-a"
claim "which was one of those" grep -qx "$(field "$me-a" pid)" <<<"$pids"
is "it answers, and knows its name" "$me-a" "$(cs exec "$me-a" -- hostname)"
is "it is listed as others are" running "$(field "$me-a" state)"
claim "another one takes its place" eventually 20 offered 2

is "what is wanted with it is run" 42 "$(cs run tiny --name "$me-run" -e ANSWER=42 -- sh -c 'echo $ANSWER')"
is "and its status handed on" 7 "$(status_of cs run tiny --name "$me-run" -- sh -c 'exit 7')"
claim "others take their place" eventually 20 offered 2
claim "more are wanted than wait" cs spawn tiny --count 3 --name "$me-b" --wait
is "all have names of their own" "$me-b-1 $me-b-2 $me-b-3 " \
	"$(for i in 1 2 3; do cs exec "$me-b-$i" -- hostname; done | tr '\n' ' ')"
claim "what is no spare is made: two CPUs" cs spawn tiny --vcpus 2 --name "$me-c"
claim "two still wait" eventually 20 offered 2

cs spawn tiny --name "$me-d" --wait >/dev/null
cs spawn tiny --name "$me-e" --wait >/dev/null
for guest in d e; do
	cs exec "$me-$guest" -- sh -c 'head -c 32 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id'
done >"$scratch/random"
is "no two have the same random numbers and ids" "" "$(sort "$scratch/random" | uniq -d)"
now=$(cs exec "$me-d" -- date +%s)
claim "its clock is right" test $((now - EPOCHSECONDS)) -ge -6 -a $((now - EPOCHSECONDS)) -le 6
is "a name is taken once" 1 "$(status_of cs spawn tiny --name "$me-d")"

# ---- it lives as any guest does
claim "one is parked" cs park "$me-d"
is "and wakes" "$me-d" "$(cs exec "$me-d" -- hostname)"
claim "one is saved" cs save "$me-e" "$me-saved"
claim "that is removed" cs template remove "$me-saved"
claim "one is stopped" cs stop "$me-e"
is "and is known as stopped" stopped "$(field "$me-e" state)"

# ---- who dies
claim "two wait" eventually 20 offered 2
pid=$(waiting_pids | head -n 1)
kill -9 "$pid"
claim "for one that was killed there is another" eventually 20 sh -c \
	"! ls '$store/guests/.spares' | grep -q '^$pid-'"
claim "two wait again" eventually 20 offered 2
pids=$(waiting_pids)
kill -9 "$keeper"
wait "$keeper" 2>/dev/null || true
keeper=''
claim "without a keeper they end" eventually 10 all_ended "$pids"
claim "guests that it made do not" cs ping "$me-a"
cs list >/dev/null
is "nothing of them is left" 0 "$(offers)"
claim "a spawn makes its own then" cs spawn tiny --name "$me-f" --wait
is "it answers" "$me-f" "$(cs exec "$me-f" -- hostname)"

# ---- spawns that are killed at any moment
keep
claim "two wait again" eventually 30 offered 2
for ((i = 1; i <= ${KILLS:-6}; i++)); do
	"$program" --store "$store" spawn tiny --name "$me-k-$i" >/dev/null 2>&1 8>&- 9>&- &
	pid=$!
	sleep "0.00$((i % 5))"
	kill -9 "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
done
claim "two wait in the end" eventually 30 offered 2
sleep 3
claim "the store is in order" cs store check
claim "what came of it can be removed" sh -c "find '$store/guests' -maxdepth 1 -name '$me-k-*' -printf '%f\n' |
	xargs -r '$program' --store '$store' remove --force"

kill "$keeper"
wait "$keeper" || true
keeper=''
cs list >/dev/null
is "told to end, it leaves nothing" 0 "$(offers)"
is "of a template without a saved machine there are none" 1 "$(status_of cs spare nosuch)"
finish

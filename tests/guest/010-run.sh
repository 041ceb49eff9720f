#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# clearstore run: as if the command ran here: its output, its input, its exit status, and nothing left.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
need_debian

# All at once; the first boots, as on a template that holds no booted machine.
run() {
	local to=$1 rc=0

	shift
	cs run debian --name "$me-$to" "$@" >"$scratch/$to.out" 2>"$scratch/$to.err" || rc=$?
	echo "$rc" >"$scratch/$to.rc"
}
run answer --cold -- python3 -c 'print(6*7)' </dev/null &
run seven -- sh -c 'echo to stderr >&2; exit 7' </dev/null &
run input -- sh -c 'wc -c; echo "$0 done"' "an argument; with 'quotes'" < <(head -c 100000 /dev/zero) &
run nothing -- /no/such/command </dev/null &
wait

is "python3 -c 'print(6*7)' prints 42" 42 "$(cat "$scratch/answer.out")"
is "and its status is 0" 0 "$(cat "$scratch/answer.rc")"
is "exit 7 is exit status 7" 7 "$(cat "$scratch/seven.rc")"
is "what it writes to stderr comes on stderr" "to stderr" "$(cat "$scratch/seven.err")"
is "and not on stdout" "" "$(cat "$scratch/seven.out")"
is "stdin reaches it, and so do arguments" "100000 an argument; with 'quotes' done" \
	"$(tr '\n' ' ' <"$scratch/input.out" | sed 's/ $//')"
is "a command that is not there is a failure" 1 "$(cat "$scratch/nothing.rc")"
claim "and is named" grep -q /no/such/command "$scratch/nothing.err"
is "no guest is left of any of them" "" "$(my_guests)"
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# exec -t: a working terminal: size, Ctrl-C, resize, job control; and the console.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
cs spawn tiny --name "$me" --wait

# Without `timeout` in front: it would put itself between the terminal and the program.
exec_t=("$program" --store "$store" exec -t "$me" --)
claim "exec -t is a terminal" python3 "$here/terminal.py" shell "${exec_t[@]}" sh -i

claim "when the terminal goes away, exec ends" \
	python3 "$here/terminal.py" hang-up here "${exec_t[@]}" sh -c 'echo he""re; exec sleep 4242'
ended() {
	! cs exec "$me" -- sh -c 'ps | grep -q "[s]leep 4242"'
}
claim "and so does its command in the guest" eventually 30 ended

is "-t without a terminal is refused" 1 "$(status_of cs exec -t "$me" -- true </dev/null)"
finish

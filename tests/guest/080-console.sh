#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A guest's console: logs keep what it said, and it can be talked to.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
cs spawn tiny --name "$me" --wait -- \
	sh -c 'exec </dev/hvc0 >/dev/hvc0 2>&1; echo COMMAND has begun; while read -r line; do echo "heard: $line"; done'

begun() {
	cs logs "$me" | grep -q 'COMMAND has begun'
}
claim "logs has what COMMAND wrote to the console" eventually 60 begun
# The console is typed into, so a terminal is needed; its end is the escape that the program names.
talk() {
	{ sleep 2; printf 'are you there\n'; sleep 5; } |
		timeout 20 "$program" --store "$store" console "$me" 2>&1 8>&- 9>&- || true
}
talk >"$scratch/talk"
claim "the console answers" grep -q 'heard: are you there' "$scratch/talk"
claim "and logs has that too" sh -c "'$program' --store '$store' logs '$me' | grep -q 'heard: are you there'"
finish

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
# Its end of input is ours, which is not the guest's: then it is left.
# shellcheck disable=SC2094 # that it reads what is being written is the point
{
	printf 'are you there\n'
	eventually 60 grep -q 'heard: are you there' "$scratch/talk"
} | cs console "$me" >"$scratch/talk" 2>&1
claim "the console answers" grep -q 'heard: are you there' "$scratch/talk"
claim "and logs has that too" sh -c "'$program' --store '$store' logs '$me' | grep -q 'heard: are you there'"
finish

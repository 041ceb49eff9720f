#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Output that does not arrive is a failure; closed standard files do no harm.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

for command in '--version' '--help' 'help --list' 'spawn --help' 'completion bash' 'doctor --json'; do
	rc=0
	# shellcheck disable=SC2086
	"$program" $command >/dev/full 2>"$scratch/err" || rc=$?
	err=$(cat "$scratch/err")
	claim "$command to a full disk is a failure" test "$rc" -ne 0
done
rc=0
"$program" --version >/dev/full 2>"$scratch/err" || rc=$?
claim "which is said" grep -q 'cannot write the output: No space left' "$scratch/err"

# Without them a file that is opened would get number 1, and be written to as if it were the output.
rc=0
"$program" help <&- >&- 2>&- || rc=$?
is "all three closed" 1 "$((rc == 0 || rc == 1))"
out=$("$program" list 2>&1 >&- <&-) || true
claim "with stdout closed errors are still told" has "$out" 'clearstore init'

# A reader that goes away ends us without a word.
rc=0
(set +o pipefail; "$program" help --list 2>"$scratch/err" | head -n 1 >/dev/null)
is "a pipe that is closed early brings no complaint" '' "$(cat "$scratch/err")"
finish

# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What tests of the command line share. To be sourced first; then state claims, and end with
# `finish`. They need no guest, no KVM and, where they do not say so, no root.
set -euo pipefail

program=${CLEARSTORE:-$(command -v clearstore || true)}
failed=0 claims=0
out='' err='' rc=0
[ -x "$program" ] || {
	echo "skipped: no clearstore to test (CLEARSTORE=/path/to/it)"
	exit 77
}
export CLEARSTORE_STORE=/nonexistent/clearstore-test
scratch=$(mktemp -d "${TMPDIR:-/tmp}/clearstore-cli.XXXXXX")
trap 'rm -rf --one-file-system "$scratch"' EXIT
trap 'exit 130' INT TERM HUP

skip() {
	echo "skipped: $*"
	exit 77
}

# Run the program: its output in $out, its errors in $err, its exit status in $rc.
cs() {
	rc=0
	timeout 60 "$program" "$@" >"$scratch/out" 2>"$scratch/err" </dev/null || rc=$?
	out=$(tr -d '\0' <"$scratch/out")
	err=$(cat "$scratch/err")
}

# claim WORDS COMMAND...: it must succeed. What the program said last is shown when it does not.
claim() {
	local words=$1

	shift
	claims=$((claims + 1))
	if "$@"; then
		echo "ok: $words"
	else
		failed=$((failed + 1))
		printf 'NOT OK: %s\n    | status: %s\n' "$words" "$rc"
		printf '%s\n' "$out" | head -n 8 | sed 's/^/    | stdout: /'
		printf '%s\n' "$err" | head -n 8 | sed 's/^/    | stderr: /'
	fi
}

# is WORDS WANTED GOT
is() {
	claim "$1" same "$2" "$3"
}

same() {
	[ "$1" = "$2" ] || {
		printf '    | wanted: %s\n    | got:    %s\n' "$1" "$2"
		return 1
	}
}

has() {
	[[ $1 == *"$2"* ]] || {
		printf '    | wanted, somewhere: %s\n' "$2"
		return 1
	}
}

# How it failed: with (status), nothing on stdout, and one line on stderr that has (words).
#   fails STATUS WORDS ARGUMENT...
fails() {
	local status=$1 words=$2

	shift 2
	cs "$@"
	claim "${*:-nothing}: fails with status $status, says: $words" failed_with "$status" "$words"
}

failed_with() {
	[ "$rc" -eq "$1" ] && [ -z "$out" ] && has "$err" "$2" && { [ "$1" -eq 2 ] || one_line; }
}

one_line() {
	[ "$(wc -l <"$scratch/err")" -eq 1 ]
}

finish() {
	echo "$((claims - failed)) of $claims claims hold"
	[ "$failed" -eq 0 ] || exit 1
	exit 0
}

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# top and meter, of a store without guests: the view of the terminal, its keys, and its end.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" -eq 0 ] || skip "needs root, for a store"
command -v python3 >/dev/null || skip "no python3"
export CLEARSTORE_STORE=$scratch/store
view=$(dirname "$0")/view.py
mkdir "$scratch/folder"
cs init --path "$scratch/folder"
[ "$rc" -eq 0 ] || skip "no store in a folder: $err"

# drawn KEYS WORDS...: the view, after these keys, has drawn the words and ended well.
drawn() {
	timeout 60 python3 "$view" "$1" "$program" top --delay 1 >"$scratch/drawn"
	rc=$? out=$(tr -d '\0\33' <"$scratch/drawn")
	shift
	for word; do has "$out" "$word" || return 1; done
	has "$out" "status 0"
}
claim "the view: sums, host, history, titles" drawn q "clearstore: 0 guests" "host: " "cost" "TABLES"
claim "every key is taken" drawn "ncpmzstuUrRx$(printf '\33[A\33[B\33[C\33[D')q" "NAME"
claim "SIGTERM ends it" drawn '!' "clearstore: 0 guests"
fails 1 "not a terminal" top
cs top --once
is "once: a table" 0 "$rc"
cs top --json
is "of none" '[]' "$out"
fails 1 "sort 'x'" top --sort x
fails 1 "delay '0'" top --delay 0

# ---- meter
cs meter --json
is "meter: its parts add up" yes "$(python3 -c 'import json, sys
rows = [row for row in json.load(sys.stdin) if row["kind"] == "host"]
parts = sum(-row["cost_bytes"] if row["name"] == "counted twice" else row["cost_bytes"] for row in rows[:-1])
print("yes" if parts == rows[-1]["cost_bytes"] else "no")' <<<"$out")"
cs meter
claim "meter: what nothing explains is printed" grep -qE 'not explained|counted twice' <<<"$out"

finish

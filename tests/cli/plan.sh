# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What tests of plan share. To be sourced behind lib.sh.

# shellcheck disable=SC2154 # scratch and out are lib.sh's
# What is asked of the rows of the last plan, in which rows["guest"]["each"] is one: an expression.
told() {
	python3 -c 'import json, sys
rows = {}
for row in json.load(open(sys.argv[1])):
    rows.setdefault(row["kind"], {})[row["name"]] = row
guest, host, result, published = (rows[kind] for kind in ("guest", "host", "result", "published"))
GiB = 1 << 30
print(eval("(" + sys.argv[2] + ")"))' "$scratch/out" "$1"
}

# The parts of a guest, those of the host, and the numbers that follow.
adds_up() {
	is "$1: a guest's parts add up" True "$(told 'all(sum(row[key] for name, row in guest.items()
if name != "each") == guest["each"][key] for key in ("bytes", "busy_bytes"))')"
	is "$1: the host's parts add up" True "$(told 'sum(row["bytes"] for name, row in host.items()
if name not in ("memory", "left for guests")) + host["left for guests"]["bytes"] == host["memory"]["bytes"]')"
	is "$1: as many as there is room for" True "$(told 'all(row["guests"] ==
host["left for guests"]["bytes"] // row["bytes"] for row in result.values())')"
	is "$1: a guest at work takes more" True "$(told 'result["idle"]["guests"] >
result["after a command in each"]["guests"] > 0')"
	is "$1: each part says where its figure is from" True "$(told 'all(row["source"] in ("measured",
"model", "given", "template", "published", "sum") for part in rows.values() for row in part.values())')"
}

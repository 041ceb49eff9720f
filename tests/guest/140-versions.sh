#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Guests of a template that is updated, switched, rolled back and pruned: none is disturbed, each reads
# its own version, new ones get the active one. VERSION_GUESTS: how many.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
count=${VERSION_GUESTS:-10}
mine=$me-v
# what a killed run left
cs template remove "$mine" >/dev/null 2>&1 || true

# A template of its own, from a guest that runs: it has the tiny root, and need not boot.
cs spawn tiny --name "$me-0" --wait >/dev/null
cs save "$me-0" "$mine" >/dev/null
cs remove --force "$me-0"

cs spawn "$mine" --count "$count" --name "$me-g" --wait >/dev/null
answering() {
	local i

	for ((i = 1; i <= count; i++)); do cs ping "$me-g-$i" >/dev/null || return 1; done
}
of_version() {
	cs list --json | python3 -c 'import json, sys
print(sum(g["name"].startswith(sys.argv[1]) and g["version"] == sys.argv[2] for g in json.load(sys.stdin)))' \
		"$me-g-" "$1"
}
claim "$count guests of the first version answer" answering
is "and are of it" "$count" "$(of_version 1)"
sum=$(cs exec "$me-g-1" -- md5sum /big)

# Another root beside it: the file that they read is another there.
make_tiny "$scratch/root"
head -c 1000 /dev/urandom >>"$scratch/root/big"
claim "update" cs template update "$mine" --from "$scratch/root" --activate
claim "they answer" answering
is "their root is the one that they had" "$sum" "$(cs exec "$me-g-$count" -- md5sum /big)"
cs spawn "$mine" --name "$me-new" >/dev/null
is "a new guest is of the new version" 2 "$(field "$me-new" version)"
claim "rollback" cs template rollback "$mine"
cs spawn "$mine" --name "$me-old" --wait >/dev/null
is "then a new guest is of the first, and goes on from its saved machine" "$sum" \
	"$(cs exec "$me-old" -- md5sum /big)"
claim "an update of the command line" cs template update "$mine" --append quiet --activate
claim "prune" cs template prune "$mine" --keep 1
is "what guests have stays" '1 2 3' "$(cs template versions "$mine" --quiet | xargs)"
claim "they answer still" answering
eventually 200 cs ping "$me-new"
other=$(cs exec "$me-new" -- md5sum /big)
claim "the guest of the second version reads the second" test "$other" != "$sum"
is "a guest stopped and started keeps its version" "$sum" "$(
	cs stop --time 2 "$me-old" >/dev/null
	cs start --wait "$me-old" >/dev/null
	cs exec "$me-old" -- md5sum /big
)"
cs remove --force "$me-new" "$me-old"
claim "prune, when they are gone" cs template prune "$mine" --keep 1
is "leaves what is in use and what is active" '1 3' "$(cs template versions "$mine" --quiet | xargs)"
for ((i = 1; i <= count; i++)); do names[i]=$me-g-$i; done
cs remove --force "${names[@]}"
claim "the template goes with its last guest" cs template remove "$mine"
finish

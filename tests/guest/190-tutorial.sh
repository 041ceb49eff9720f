#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# docs/tutorial.md, followed literally: each of its blocks is run, in order, on a store of its own. The ten guests
# of its chapter 6 are TUTORIAL_GUESTS (3). Where KVM emulates guest kernels the boot of chapter 4 takes longer
# than a test may: what follows is done there only when TUTORIAL_GUESTS is set.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
guests=${TUTORIAL_GUESTS:-3}
command -v gcc >/dev/null || skip "no gcc, which the tutorial's service is built with"

work=$scratch/work
mkdir -p "$work" "$scratch/bin" "$scratch/blocks"
ln -s "$(realpath "$program")" "$scratch/bin/clearstore"
export PATH=$scratch/bin:$PATH CLEARSTORE_STORE=$scratch/store CLEARSTORE_KERNEL=$kernel
export CLEARSTORE_AGENT=${CLEARSTORE_AGENT:-$(dirname "$(realpath "$program")")/clearstore-agent}

undo() {
	clearstore list --quiet 2>/dev/null | xargs -r clearstore remove --force 8>&- 9>&- >/dev/null 2>&1
	! mountpoint -q "$CLEARSTORE_STORE" || umount "$CLEARSTORE_STORE"
}
trap 'undo; cleanup' EXIT

# What is indented by four blanks is a block, also over empty lines; one file each.
awk -v to="$scratch/blocks/" -v guests="$guests" '
	/^    / {
		if (!open) { open = 1; file = sprintf("%s%02d", to, ++n) }
		line = substr($0, 5)
		sub(/--count 10 /, "--count " guests " ", line)
		for (; empty; empty--) print "" >file
		print line >file
		next
	}
	/^$/ { if (open) empty++; next }
	{ open = empty = 0 }' "$top/docs/tutorial.md"

# Its output is kept beside it.
run_block() {
	(cd "$work" && timeout 900 bash -euo pipefail "$1") >"$1.out" 2>&1 </dev/null 8>&- 9>&- ||
		{ cat "$1.out"; return 1; }
}

blocks=("$scratch"/blocks/??)
claim "it has blocks" [ "${#blocks[@]}" -ge 15 ]
for block in "${blocks[@]}"; do
	if emulated && [ -z "${TUTORIAL_GUESTS:-}" ] && grep -q '^clearstore template warm' "$block"; then
		echo "left out: what follows the boot (TUTORIAL_GUESTS=10 does it)"
		undo
		finish
	fi
	if grep -qx 'clearstore doctor' "$block"; then
		run_block "$block" >/dev/null || true # it may have something to say about this host
	else
		claim "block ${block##*/}: $(grep -m 1 clearstore "$block" || head -n 1 "$block")" run_block "$block"
	fi
	if grep -q 'ask.py .*list' "$block"; then
		if [ "$guests" -eq 1 ]; then echo web; else seq -f 'web-%.0f' "$guests"; fi |
			sed 's/.*/I am &, asked 1 times/' | sort >"$scratch/wanted"
		is "each of $guests answered once, by its own name" "$(cat "$scratch/wanted")" \
			"$(grep '^I am' "$block.out" | sort)"
	fi
	case $(<"$block") in
	*'ask.py first') is "the first answers" "I am first, asked 1 times" "$(tail -n 1 "$block.out")" ;;
	*'cat /etc/motd') is "what was written is there" changed "$(tail -n 1 "$block.out")" ;;
	esac
done
is "nothing is left" '' "$(clearstore list --quiet)$(clearstore template list --quiet)"
undo
finish

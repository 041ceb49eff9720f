#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# update, activate, rollback and prune killed with SIGKILL at random moments: the next command opens
# the store, the template is as before or as after, every version is whole, nothing half-made is left.
# CLEARSTORE_TEST_KILLS sets how often.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

image_store 1G
kills=${CLEARSTORE_TEST_KILLS:-50}
fake_kernel "$kernel" 6.12.1-clearstore 2
fake_root "$scratch/root"
head -c 20M /dev/urandom >"$scratch/root/large"
cp -r "$scratch/root/etc" "$scratch/etc"
cs template add web --from "$scratch/root"
[ "$rc" -eq 0 ] || skip "$err"
RANDOM=815

active() {
	readlink "$store/templates/web/active"
}

versions() {
	(cd "$store/templates/web" && find . -mindepth 1 -maxdepth 1 ! -name active -printf '%f\n') | sort -n | xargs
}

now_ms() {
	echo $((${EPOCHREALTIME/./} / 1000))
}

# Run a command and kill it after a part of what it takes when let alone (ms).
killed() {
	local us=$((RANDOM * 32768 + RANDOM)) span=$1

	shift
	us=$((us % (span * 1000 + 1)))
	"$program" "$@" >/dev/null 2>&1 &
	sleep "$(printf '%d.%06d' $((us / 1000000)) $((us % 1000000)))"
	kill -9 $! 2>/dev/null || true
	wait $! 2>/dev/null || true
	words="$1 $2 killed after $us us"
}

settled() {
	cs template list
	is "$words: the next command works" 0 "$rc"
	claim "$words: nothing half-made in the store" only_templates web
	is "$words: nor in the template" '' \
		"$(find "$store/templates/web" -mindepth 1 -maxdepth 1 -name '.*')"
	is "$words: as many subvolumes as versions" "$(versions | wc -w)" \
		"$(btrfs subvolume list "$store" 2>/dev/null | wc -l)"
}

start=$(now_ms)
cs template update web --from "$scratch/root"
update_ms=$(($(now_ms) - start))
done_updates=0 done_switches=0 done_prunes=0
for ((i = 0; i < kills; i++)); do
	before=$(active) had=$(versions)
	case $((i % 4)) in
	0 | 1)
		cp "$scratch/etc/file-$((i % 300))" "$scratch/root/etc/changed-$i"
		killed $((update_ms * 5 / 4)) template update web --from "$scratch/root" --activate
		settled
		now=$(active)
		if [ "$(versions)" != "$had" ]; then
			fresh=$(versions) fresh=${fresh##* }
			done_updates=$((done_updates + 1))
			cs template verify "web@$fresh"
			is "$words: the new version is whole" 0 "$rc"
			claim "$words: the active one is as before or the new one" \
				[ "$now" = "$before" -o "$now" = "$fresh" ]
		else
			is "$words: the active one is as before" "$before" "$now"
		fi
		;;
	2)
		to=$(versions) to=${to%% *}
		killed 12 template activate web "$to"
		settled
		now=$(active)
		[ "$now" != "$to" ] || done_switches=$((done_switches + 1))
		claim "$words: it is the one or the other" [ "$now" = "$before" -o "$now" = "$to" ]
		is "$words: no version came or went" "$had" "$(versions)"
		;;
	3)
		killed 25 template prune web --keep 2
		settled
		[ "$(versions)" = "$had" ] || done_prunes=$((done_prunes + 1))
		is "$words: the active one is as before" "$before" "$(active)"
		claim "$words: and is there" test -d "$store/templates/web/$before"
		;;
	esac
	cs template verify web
	is "$words: the active one is whole" 0 "$rc"
done
echo "# $kills kills; too late for: $done_updates updates, $done_switches switches, $done_prunes prunes"
cs template prune web --keep 1
is "and all goes on" 0 "$rc"
finish

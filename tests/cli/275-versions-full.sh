#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An update of a store that is full, and of one that is read-only: said, and nothing is lost; what the
# version before has need not fit once more.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

fake_kernel "$kernel" 6.12.1-clearstore 1
mkdir -p "$scratch/root/etc"
head -c 150M /dev/urandom >"$scratch/root/etc/a"
image_store 400M
cs template add web --from "$scratch/root"
is "a template" 0 "$rc"
head -c 300M /dev/urandom >"$scratch/root/etc/b"
fails 1 'make room' template update web --from "$scratch/root"
claim "nothing half-made" only_templates web
cs template versions web --quiet
is "no version" 1 "$out"
cs template verify web
is "the one that there is, is whole" 0 "$rc"
head -c 60M /dev/urandom >"$scratch/root/etc/b"
cs template update web --from "$scratch/root" --activate
is "with less that is new it fits, since it shares" 0 "$rc"
cs template verify web
is "and is whole" 0 "$rc"

mount -o remount,ro "$store"
fails 1 'Read-only' template update web --append x
fails 1 'Read-only' template activate web 1
fails 1 'Read-only' template prune web --keep 1
cs store check
is "check: status" 1 "$rc"
claim "says that it is read-only" grep -q '^file system .*read-only' <<<"$out"
cs scrub
is "what is there can be read" 0 "$rc"
mount -o remount,rw "$store"
cs template rollback web
is "and all goes on" '0 web: new guests get version 1' "$rc $out"

# Two who update at once: one does, the other is told.
head -c 1M /dev/urandom >"$scratch/root/etc/b"
"$program" template update web --from "$scratch/root" >/dev/null 2>"$scratch/first" &
first=$!
cs template update web --from "$scratch/root"
second=$rc
wait "$first" && first=0 || first=$?
is "two at once: one is done at least" True "$(python3 -c "print($first == 0 or $second == 0)")"
claim "and the other is told, or has its own" [ "$second" -eq 0 -o -n "$err" ]
cs template verify --all
is "all versions are whole" 0 "$rc"
cs store check
is "and the store is well" 0 "$rc"
finish

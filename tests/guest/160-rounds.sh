#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Again and again: a busy guest is saved while it goes on, a clone goes on from that, runs something and
# stops; the next is saved of a clone every third time. ROUNDS (10) says how often.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
rounds=${ROUNDS:-10}

# A pattern in memory that each picture must hold as a whole: all lines of a file say the same number;
# which is replaced by rename. It goes on being busy while it is looked at, so each file is read once.
# shellcheck disable=SC2016 # the guest expands it
busy='n=0
while :; do
	n=$((n + 1))
	yes "$n" | head -n 2000 >/tmp/next && mv /tmp/next /tmp/now
	echo "$n" >>/tmp/count
done >/dev/null 2>&1 &'
# shellcheck disable=SC2016
whole='[ "$(uniq /tmp/now | wc -l)" -eq 1 ] && [ "$(wc -l </tmp/now)" -eq 2000 ] &&
	cp /tmp/count /tmp/counted && [ "$(tail -n 1 /tmp/counted)" -eq "$(wc -l </tmp/counted)" ] && echo whole'

forget() {
	! cs template show "$1" >/dev/null 2>&1 || cs template remove "$1" >/dev/null
}

# round N: what it came to, in one word
round() {
	local template=$me-save-$1 clone=$me-clone-$1 said

	cs save "$source" "$template" >/dev/null || { echo save; return; }
	cs spawn "$template" --name "$clone" --wait >/dev/null || { echo spawn; return; }
	said=$(cs exec "$clone" -- sh -c "$whole") || { echo exec; return; }
	if (($1 % 3)); then
		cs stop "$clone" >/dev/null || { echo stop; return; }
		cs remove "$clone" || { echo remove; return; }
		cs template remove "$template" >/dev/null || { echo forget; return; }
	else
		cs remove --force "$source" || { echo source; return; }
		[ -z "$behind" ] || cs template remove "$behind" >/dev/null || { echo behind; return; }
		source=$clone behind=$template
	fi
	verdict=$said
}

source=$me behind=''
claim "a guest is spawned" cs spawn tiny --name "$me" --wait
claim "and is busy" cs exec "$me" -- sh -c "$busy"
for ((i = 1; i <= rounds; i++)); do
	verdict=''
	round "$i" >"$scratch/failed-at"
	[ "$verdict" = whole ] || break
	((i % 10)) || echo "# $i rounds after $SECONDS s"
done
is "$rounds rounds of save, spawn, exec, stop, each with a whole picture" \
	"$((rounds + 1)) whole " "$i $verdict $(cat "$scratch/failed-at")"
# Those of a round that failed too.
mapfile -t guests < <(my_guests)
claim "its guests are removed" cs remove --force "${guests[@]}"
for ((n = 1; n <= rounds; n++)); do
	forget "$me-save-$n"
done
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Guests that write the same: merged inside their share domain, by the tuner, and taken apart again.
# It sets the host's KSM, and puts it back.
alone=1
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

ksm=/sys/kernel/mm/ksm
[ -w $ksm/run ] || skip "no KSM that can be set"
[ "$(cat $ksm/run)" = 0 ] || skip "something else uses KSM on this host"
before=$(cat $ksm/run $ksm/pages_to_scan $ksm/sleep_millisecs $ksm/use_zero_pages)

pid_of() {
	field "$1" pid
}

# What of a guest's memory is merged, in pages.
merged() {
	awk '$1 ~ /^ksm_(merging|zero)_pages/ { n += $2 } END { print n + 0 }' "/proc/$(pid_of "$1")/ksm_stat"
}

mergeable() {
	grep -c '^VmFlags:.* mg' "/proc/$(pid_of "$1")/smaps" || true
}

# How far a counter came, by the trace.
column() {
	python3 - "$scratch/trace" "$1" <<-'END'
		import csv, sys
		rows = list(csv.DictReader(open(sys.argv[1])))
		print(int(rows[-1][sys.argv[2]]) - int(rows[0][sys.argv[2]]))
	END
}

saved() {
	cs ksm status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["saved_bytes"] >> 10)'
}

# A MiB that is the same in each of them, and in no page cache of the host: in the guest's RAM. No more,
# since where the guest's kernel is emulated it takes seconds.
cs spawn tiny --name "$me-red" --count 3 --share-domain red --wait >/dev/null
cs spawn tiny --name "$me-blue" --share-domain blue --wait >/dev/null
cs spawn tiny --name "$me-none" --wait >/dev/null
for guest in "$me"-red-{1,2,3} "$me-blue" "$me-none"; do
	cs exec "$guest" -- dd if=/big of=/tmp/same bs=1M count=1 2>/dev/null
done
is "spawn says whose a guest is" red "$(field "$me-red-1" share_domain)"
is "nothing is mergeable before a tuner runs" 0 "$(mergeable "$me-red-1")"
# Of guests that have gone KSM keeps the figures until it comes past them: a look at nothing clears them.
claim "a tuner for nobody" cs ksm tune --once --domain nobody
base=$(saved)
claim "tune --once" cs ksm tune --once --domain red --trace "$scratch/trace"
gained=$(($(saved) - base))
claim "two of three copies of a MiB are gone ($gained KiB)" test "$gained" -ge 1900
# The host's figure may be another's: some other program may have merged something.
for guest in "$me"-red-{1,2,3}; do
	claim "$guest is merged ($(merged "$guest") pages)" test "$(merged "$guest")" -ge 240
done
is "its memory is one mapping again" 1 "$(mergeable "$me-red-1")"
scanned=$(column pages_scanned)
claim "a second look finds nothing to do" cs ksm tune --once --domain red --trace "$scratch/trace"
is "and does not scan" 0 "$(column pages_scanned)"
is "blue is not" 0 "$(merged "$me-blue")"
is "and could not be" 0 "$(mergeable "$me-blue")"
is "neither is who is in no domain" 0 "$(mergeable "$me-none")"
is "KSM's settings are put back" "$before" "$(cat $ksm/run $ksm/pages_to_scan $ksm/sleep_millisecs $ksm/use_zero_pages)"
for guest in "$me"-red-{1,2,3}; do
	is "$guest has what it wrote" "$(cs exec "$me-none" -- md5sum /tmp/same)" "$(cs exec "$guest" -- md5sum /tmp/same)"
done

# ---- a write is one's own
claim "a guest writes to what is merged" cs exec "$me-red-1" -- sh -c 'printf changed | dd of=/tmp/same conv=notrunc'
claim "a write to a merged page is not seen by others" same \
	"$(cs exec "$me-none" -- md5sum /tmp/same)" "$(cs exec "$me-red-2" -- md5sum /tmp/same)"

# ---- the same without a look beforehand at what is alike
cs ksm off >/dev/null
claim "a tuner for nobody, again" cs ksm tune --once --domain nobody
claim "tune --once --whole" cs ksm tune --once --whole --domain red --trace "$scratch/trace"
whole=$(column pages_scanned)
claim "what is alike nowhere is not scanned, but for --whole ($scanned pages and $whole)" test "$scanned" -lt "$whole"

# ---- a tuner that stays, and another domain
"$program" --store "$store" ksm tune --domain blue 8>&- 9>&- 2>"$scratch/tuner" &
tuner=$!
claim "a tuner of another domain takes its guests in" eventually 20 eval '[ "$(mergeable "$me-blue")" -gt 0 ]'
claim "red is out" eventually 20 eval '[ "$(mergeable "$me-red-1")" = 0 ]'
claim "and has its own pages again" eventually 20 eval '[ "$(merged "$me-red-2")" = 0 ]'
is "a second tuner refuses" 1 "$(status_of cs ksm tune)"
cs stop "$me-blue" >/dev/null
cs start "$me-blue"
claim "start keeps the domain, and the tuner sees it" eventually 20 eval '[ "$(mergeable "$me-blue")" -gt 0 ]'
kill -KILL "$tuner"
wait "$tuner" 2>/dev/null || true
claim "off, after a kill" cs ksm off
is "nobody is mergeable" 0 "$(mergeable "$me-blue")"
is "KSM's settings are what they were" "$before" "$(cat $ksm/run $ksm/pages_to_scan $ksm/sleep_millisecs $ksm/use_zero_pages)"
is "guests answer" 3 "$(for i in 1 2 3; do cs ping "$me-red-$i"; done | wc -l)"

finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The tuner, on kernels made of files: what it says, sets, puts back and refuses. The store is empty.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" -eq 0 ] || skip "needs root, for a store"
export CLEARSTORE_STORE=$scratch/store
root=$scratch/root
ksm=$root/sys/kernel/mm/ksm
put() { # PATH TEXT
	mkdir -p "$root/$(dirname "$1")"
	printf '%s\n' "$2" >"$root/$1"
}
old_kernel() {
	rm -rf "$root"
	put proc/meminfo $'MemTotal:       16000000 kB\nMemAvailable:   12000000 kB\nAnonPages:      1000 kB'
	put proc/sys/kernel/random/boot_id 1234-5678
	for name in run full_scans use_zero_pages pages_shared pages_sharing pages_unshared pages_volatile; do
		put "sys/kernel/mm/ksm/$name" 0
	done
	put sys/kernel/mm/ksm/pages_to_scan 100
	put sys/kernel/mm/ksm/sleep_millisecs 20
}
new_kernel() {
	old_kernel
	put proc/vmstat $'nr_free_pages 1\ncow_ksm 7'
	put proc/pressure/memory $'some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1'
	put sys/kernel/mm/ksm/advisor_mode '[none] scan-time'
	put sys/kernel/mm/ksm/smart_scan 1
	for name in pages_scanned pages_skipped ksm_zero_pages general_profit; do
		put "sys/kernel/mm/ksm/$name" 0
	done
}
settings() {
	(cd "$ksm" && grep . run pages_to_scan sleep_millisecs use_zero_pages | tr '\n' ' ')
}
before='run:0 pages_to_scan:100 sleep_millisecs:20 use_zero_pages:0 '

mkdir "$scratch/folder"
cs init --path "$scratch/folder"
[ "$rc" -eq 0 ] || skip "no store in a folder: $err"

# ---- status
new_kernel
put sys/kernel/mm/ksm/pages_sharing 512
cs ksm status --root "$root"
claim "status: what is saved" grep -q '^SAVED: *2.0 MiB$' <<<"$out"
claim "and that it stands still" grep -q '^KSM: *stands still$' <<<"$out"
cs ksm status --root "$root" --json
is "as JSON" 2097152 "$(python3 -c 'import json, sys; print(json.load(sys.stdin)["saved_bytes"])' <<<"$out")"
old_kernel
cs ksm status --root "$root"
claim "of an old kernel: what it lacks" has "$out" "no advisor"
claim "and what it does not tell is not 0" grep -q '^OF ZERO PAGES: *-$' <<<"$out"
for broken in '' x -1 99999999999999999999999; do
	put sys/kernel/mm/ksm/pages_shared "$broken"
	fails 1 "pages_shared" ksm status --root "$root"
done
rm -r "$ksm"
fails 1 "no KSM" ksm status --root "$root"
fails 1 "no KSM" ksm tune --once --root "$root"

# ---- tune
new_kernel
cs ksm tune --once --policy kernel --root "$root" &
for _ in {1..100}; do
	[ "$(cat "$ksm/run")" = 0 ] || break
	sleep 0.05
done
put sys/kernel/mm/ksm/full_scans 3
wait $!
is "once: settings are put back" "$before" "$(settings)"
"$program" ksm tune --policy unlimited --root "$root" 2>/dev/null &
tuner=$!
for _ in {1..100}; do
	[ "$(cat "$ksm/run")" = 0 ] || break
	sleep 0.05
done
is "it sets what its policy says" 'run:1 pages_to_scan:20000 sleep_millisecs:1 use_zero_pages:1 ' "$(settings)"
fails 1 "another tuner runs (process $tuner)" ksm tune --root "$root"
cs ksm status --root "$root"
claim "status tells of the tuner" grep -q "^TUNER: *$tuner$" <<<"$out"
kill -TERM "$tuner"
wait "$tuner" || rc=$?
is "SIGTERM: settings are put back" "$before" "$(settings)"
is "and nothing is left to be put back" ksm.lock "$(ls "$root/run/clearstore")"
"$program" ksm tune --policy unlimited --root "$root" 2>/dev/null &
tuner=$!
for _ in {1..100}; do
	[ "$(cat "$ksm/run")" = 0 ] || break
	sleep 0.05
done
kill -KILL "$tuner"
wait "$tuner" 2>/dev/null || true
is "kill -9 leaves them" 1 "$(cat "$ksm/run")"
cs ksm tune --once --policy off --root "$root"
claim "the next tuner says so" has "$err" "was killed"
is "and has put them back" "0:$before" "$rc:$(settings)"
"$program" ksm tune --policy unlimited --root "$root" 2>/dev/null &
tuner=$!
for _ in {1..100}; do
	[ "$(cat "$ksm/run")" = 0 ] || break
	sleep 0.05
done
cs ksm off --root "$root"
is "off ends the tuner and puts settings back" "0:$before" "$rc:$(settings)"
wait "$tuner" || true
put sys/kernel/mm/ksm/pages_sharing 2000000
fails 1 "would take 7.6 GiB more" ksm off --root "$root"
cs ksm off --force --root "$root"
is "unless forced" 0 "$rc"

# ---- an old kernel
old_kernel
cs ksm tune --once --policy off --root "$root"
claim "an old kernel: it says what it has to do without" has "$err" "no smart_scan"
is "and does it" "0:$before" "$rc:$(settings)"
claim "what the kernel has not is not made" test ! -e "$ksm/smart_scan"

# ---- traces
cs ksm tune --once --policy off --trace "$scratch/trace" --root "$root"
claim "a trace is written" test "$(wc -l <"$scratch/trace")" -ge 2
cs ksm replay "$scratch/trace"
is "and replayed by all policies" '0 8' "$rc $(wc -l <"$scratch/out")"
cs ksm replay "$scratch/trace" --policy yield --json
is "or one" 'yield' "$(python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["policy"])' <<<"$out")"
head -c 200 "$scratch/trace" >"$scratch/cut"
fails 1 "no line of names" ksm replay "$scratch/cut"
fails 1 "cannot read" ksm replay "$scratch/nosuch"

# ---- words
fails 1 "policy 'x': there is none (yield" ksm tune --policy x --root "$root"
for budget in 5 5%% 0% 101% 0.0% 5.55% -5% % ''; do
	fails 1 "not 0.1% to 100%" ksm tune --budget "$budget" --root "$root"
done
fails 2 "do not go together" ksm tune --domain a --all-domains
fails 2 "no trace given" ksm replay
fails 1 "cannot write the trace" ksm tune --trace "$scratch/no/such" --root "$root"
is "one that could not begin leaves nothing to put back" "" "$(find "$root/run/clearstore" -name ksm.saved)"
is "nobody else can hold the tuner's lock" 600 "$(stat -c %a "$root/run/clearstore/ksm.lock")"
is "and it names nobody who has ended" 0 "$(stat -c %s "$root/run/clearstore/ksm.lock")"
printf 'format 1\nboot 1234-5678\nrun ?\n' >"$root/run/clearstore/ksm.saved"
fails 1 "is broken" ksm tune --once --root "$root"

finish

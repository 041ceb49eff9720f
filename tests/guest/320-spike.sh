#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Some other program takes all memory that is left, and more: without merging the host kills it; with a
# tuner that has done nothing yet it finds room, since the tuner is at it within a second.
#
# It drives the host out of memory, so only in a testbed (scripts/testbed), and only when asked for:
# SPIKE=1. SPIKE_GUESTS (12) guests of SPIKE_MIB (40) that are the same in each.
alone=1
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

[ -n "${SPIKE:-}" ] || skip "it drives the host out of memory (SPIKE=1, in scripts/testbed)"
[ -n "${CLEARSTORE_TESTBED:-}" ] || skip "no testbed"
ksm=/sys/kernel/mm/ksm
[ -w $ksm/run ] || skip "no KSM that can be set"
n=${SPIKE_GUESTS:-12} mib=${SPIKE_MIB:-40}

# Takes MIB as fast as it can but for the last 500, which it takes at 80 a second; holds it, and says how far
# it came each time. The kernel is to take this one first.
cat >"$scratch/taker" <<'P'
import sys, time
want, held, step = int(sys.argv[1]), [], 8
with open("/proc/self/oom_score_adj", "w") as score:
    score.write("1000")
while len(held) * step < want:
    held.append(bytearray(b"x") * (step << 20))
    if want - len(held) * step < 500:
        print(len(held) * step, flush=True)
        time.sleep(step / 80)
time.sleep(5)
print("all", flush=True)
P

available() {
	awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo
}

kills() {
	awk '$1 == "oom_kill" { print $2 }' /proc/vmstat
}

# All that is left, and 60 % of what merging can save.
take() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
	want=$(($(available) + (n - 1) * mib * 6 / 10))
	timeout 240 python3 "$scratch/taker" "$want" >"$scratch/taken" 2>/dev/null || true
	tail -n 1 "$scratch/taken"
}

cs spawn tiny --name "$me" --count "$n" --share-domain spike --wait >/dev/null
for i in $(seq "$n"); do
	cs exec "$me-$i" -- sh -c "i=0; while [ \$i -lt $((mib / big_mib)) ]; do cat /big >/tmp/same\$i; i=\$((i + 1)); done" &
done
wait
is "guests hold what they were told to" "$n" \
	"$(for i in $(seq "$n"); do cs exec "$me-$i" -- du -sm /tmp; done | awk -v least=$((mib * 8 / 10)) '$1 >= least' | wc -l)"

before=$(kills)
got=$(take)
claim "without a tuner there is no room for it ($got MiB, killed)" test "$(kills)" -gt "$before"
is "guests live" "$n" "$(for i in $(seq "$n"); do cs ping --timeout 60 "$me-$i"; done | wc -l)"

before=$(kills)
"$program" --store "$store" ksm tune --domain spike --trace "$scratch/trace" 8>&- 9>&- 2>"$scratch/tuner" &
tuner=$!
is "with one there is" all "$(take)"
is "nobody was killed" 0 "$(($(kills) - before))"
kill "$tuner"
wait "$tuner" || true
cat "$scratch/tuner"
# From the first look at which memory was short (policy.c: a twentieth is left, or it runs out in 20 s, or
# tasks wait for it) to scanning.
python3 - "$scratch/trace" <<'P' | tee "$scratch/answer"
import csv, sys
rows = [{key: int(value or 0) for key, value in row.items()} for row in csv.DictReader(open(sys.argv[1]))]
short = ran = None
for a, b in zip(rows, rows[1:]):
    ms = b["at_ms"] - a["at_ms"] or 1
    lost, low = a["available_bytes"] - b["available_bytes"], b["total_bytes"] // 20
    pressed = b["available_bytes"] < low or (b["some_us"] - a["some_us"]) / ms >= 50 or (
        lost > b["total_bytes"] // 1000 and b["available_bytes"] < b["total_bytes"] // 3 and
        (b["available_bytes"] - low) // (lost // ms + 1) < 20000)
    if pressed and short is None:
        short = a["at_ms"]
    if short is not None and ran is None and b["set_run"] == 1:
        ran = b["at_ms"]
last = rows[-1]
print("reacted_ms", ran - short if ran else -1)
print("saved_mib", max(row["pages_sharing"] + row["zero_pages"] for row in rows) >> 8)
print("ksmd_s", (last["ksmd_us"] - rows[0]["ksmd_us"]) / 1e6)
P
reacted=$(awk '$1 == "reacted_ms" { print $2 }' "$scratch/answer")
claim "it was at it within a second ($reacted ms after the look before)" test "$reacted" -ge 0 -a "$reacted" -le 1000
is "guests live, and have what they wrote" 1 \
	"$(for i in $(seq "$n"); do cs exec "$me-$i" -- sh -c 'cat /tmp/same* | md5sum'; done | sort -u | wc -l)"

finish

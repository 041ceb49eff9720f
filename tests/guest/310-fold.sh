#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Pages that are as they were before the guest wrote to them go back, and the guest notices nothing.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

guest=$me-warm
cs spawn tiny --name "$guest" --wait >/dev/null
private() {
	echo $(($(field "$guest" private_bytes) >> 20))
}
# Free memory of the template's machine is zero: what is written here becomes equal to it.
cs exec "$guest" -- sh -c 'dd if=/dev/zero of=/tmp/zero bs=1M count=4 && dd if=/big of=/tmp/data bs=256k count=1' >/dev/null 2>&1
sum=$(cs exec "$guest" -- sh -c 'cat /tmp/zero /tmp/data | md5sum')
before=$(private)
cs fold "$guest" --json >"$scratch/fold"
value() {
	python3 -c 'import json, sys; print(int(json.load(open(sys.argv[1]))[0][sys.argv[2]]))' "$scratch/fold" "$1"
}
after=$(private)
claim "4 MiB of zeroes go back ($before MiB, then $after)" test $((before - after)) -ge 3
claim "as fold says" test $(($(value folded_bytes) >> 20)) -ge 3
cat "$scratch/fold"
is "the guest has what it wrote" "$sum" "$(cs exec "$guest" -- sh -c 'cat /tmp/zero /tmp/data | md5sum')"
cs fold "$guest" --json >"$scratch/fold"
claim "once more: little is left to give back" test $(($(value folded_bytes) >> 20)) -lt 2

# ---- while it works
cs exec "$guest" -- sh -c 'for i in 1 2 3 4; do dd if=/big of=/tmp/again bs=256k count=1 2>/dev/null; [ "$(head -c 262144 /big | md5sum)" = "$(md5sum </tmp/again)" ] || exit 9; done' >"$scratch/work" 2>&1 &
work=$!
folds=0
for _ in 1 2 3 4 5 6 7 8; do
	if kill -0 "$work" 2>/dev/null && cs fold "$guest" >/dev/null; then folds=$((folds + 1)); fi
	sleep 0.3
done
claim "it is folded while it works ($folds times)" test "$folds" -ge 1
worked=0
wait "$work" || worked=$?
is "a guest that writes and reads meanwhile finds what it wrote" "0:" "$worked:$(cat "$scratch/work")"
claim "and answers" cs ping "$guest"

is "of a guest that does not run: a failure" 1 "$(cs stop "$guest" && status_of cs fold "$guest")"

finish

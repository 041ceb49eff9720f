#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A guest with two vCPUs uses both.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
cs spawn tiny --name "$me" --vcpus 2 --wait

is "the guest sees two" 2 "$(cs exec "$me" -- nproc)"
is "a process can be bound to either" "0 1" \
	"$(cs exec "$me" -- sh -c 'for c in 0 1; do taskset -c $c sh -c "cut -d\" \" -f39 /proc/self/stat"; done' | xargs)"
# Both have worked: the ticks each spends in user space while two loops run grow. How many that are
# depends on how long the loops take here, so they run until both have, but not for ever.
two_loops() {
	cs exec "$me" -- sh -c 'for c in 0 1; do (i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done) & done; wait'
}
user_ticks() {
	cs exec "$me" -- awk '/^cpu[01] / { print $2 }' /proc/stat | xargs
}
read -r cpu0 cpu1 <<<"$(user_ticks)"
for _ in {1..10}; do
	two_loops
	read -r now0 now1 <<<"$(user_ticks)"
	[ $((now0 - cpu0)) -lt 10 ] || [ $((now1 - cpu1)) -lt 10 ] || break
done
claim "cpu0 has run programs ($((now0 - cpu0)) ticks)" test $((now0 - cpu0)) -ge 10
claim "cpu1 has run programs ($((now1 - cpu1)) ticks)" test $((now1 - cpu1)) -ge 10
# And so have both of the monitor's vCPU threads, on the host.
busy=$(awk '{ sub(/.*\) /, ""); if ($12 + $13 > 20) n++ } END { print n + 0 }' /proc/"$(field "$me" pid)"/task/*/stat)
claim "at least two of the monitor's threads did the work ($busy)" test "$busy" -ge 2
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A guest with two vCPUs uses both.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
cs spawn tiny --name "$me" --vcpus 2 --wait

is "the guest sees two" 2 "$(cs exec "$me" -- nproc)"
is "a process can be bound to either" "0 1" \
	"$(cs exec "$me" -- sh -c 'for c in 0 1; do taskset -c $c sh -c "cut -d\" \" -f39 /proc/self/stat"; done' | xargs)"
# Both have worked: the ticks each spent in user space while two loops ran.
cs exec "$me" -- sh -c 'for c in 0 1; do (i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done) & done; wait'
for cpu in 0 1; do
	ticks=$(cs exec "$me" -- awk "/^cpu$cpu / { print \$2 }" /proc/stat)
	claim "cpu$cpu has run programs ($ticks ticks)" test "$ticks" -gt 5
done
# And so have both of the monitor's vCPU threads, on the host.
busy=$(awk '{ sub(/.*\) /, ""); if ($12 + $13 > 20) n++ } END { print n + 0 }' /proc/"$(field "$me" pid)"/task/*/stat)
claim "at least two of the monitor's threads did the work ($busy)" test "$busy" -ge 2
finish

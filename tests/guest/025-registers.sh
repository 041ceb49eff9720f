#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# More processes than CPUs, each with patterns in all the vector registers it is told it has: the guest's
# kernel keeps them for each, also while handlers of signals run, and so does a save. On a KVM that runs
# processes natively and emulates the kernel they see the host's CPUID, with registers that such a kernel
# does not keep.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
registers=${REGISTERS:-$(dirname "$program")/tests/guest/registers}
[ -x "$registers" ] || skip "no $registers (make check builds it)"
seconds=${REGISTERS_SECONDS:-5}

# hold GUEST: three at once, and what each said.
hold() {
	# shellcheck disable=SC2016 # the guest expands it
	cs exec "$1" -- sh -c 'for i in 1 2 3; do /tmp/registers $i '"$seconds"' & done; wait' |
		cut -d ' ' -f 2 | uniq -c | tr -s ' '
}

claim "a guest is spawned" cs spawn tiny --name "$me" --wait
claim "and gets the program" cs exec "$me" -- sh -c 'cat >/tmp/registers && chmod +x /tmp/registers' <"$registers"
echo "# what a process holds: $(cs exec "$me" -- /tmp/registers 0 0)"
is "what three hold is kept" " 3 kept" "$(hold "$me")"

# Saved while they hold it: both go on with the same.
# shellcheck disable=SC2016 # the guest expands it
claim "three hold on" cs exec "$me" -- \
	sh -c 'for i in 1 2 3; do /tmp/registers $i '"$((seconds * 4))"' >/tmp/said.$i & done'
claim "the guest is saved meanwhile" cs save "$me" "$me-save"
claim "a clone goes on from there" cs spawn "$me-save" --name "$me-clone" --wait
said() {
	[ "$(cs exec "$1" -- sh -c 'cat /tmp/said.*' | wc -l)" -eq 3 ]
}
for guest in "$me" "$me-clone"; do
	claim "all three end ($guest)" eventually "$((seconds * 20 + 60))" said "$guest"
	is "and have what they had" "kept kept kept " \
		"$(cs exec "$guest" -- sh -c 'cat /tmp/said.*' | cut -d ' ' -f 2 | tr '\n' ' ')"
done

claim "the guests are removed" cs remove --force "$me" "$me-clone"
claim "and what was saved" cs template remove "$me-save"
finish

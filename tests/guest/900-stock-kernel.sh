#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A stock Debian kernel, as its package has it, boots as a guest on a standard KVM.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

stock=$("$top/scripts/stock-kernel" cloud-amd64 8>&- 9>&-) || skip "no stock kernel (scripts/stock-kernel failed)"
modules=${stock#*$'\n'}
stock=${stock%%$'\n'*}
(cs doctor || true) | grep -q '^ok .*kvm: .*any kernel runs' ||
	skip "this host's KVM runs only kernels with clearstore's patches (scripts/testbed runs any)"

make_tiny "$scratch/root"
rm "$scratch/root/big"
cs template add "$me" --from "$scratch/root" --kernel "$stock" --modules "$modules"
cs spawn "$me" --name "$me" --wait --memory 192M
is "the guest runs Debian's kernel" "$(basename "$modules")" "$(cs exec "$me" -- uname -r)"
claim "from a DAX root" \
	cs exec "$me" -- sh -c 'mount -t erofs -o ro /dev/pmem0 /mnt && grep "^/dev/pmem0 .*dax" /proc/mounts'
is "exec works as ever" 7 "$(status_of cs exec "$me" -- sh -c 'exit 7')"
claim "stop" cs stop "$me"
claim "remove" cs remove "$me"
claim "its template is removed" cs template remove "$me"
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# No two clones of a machine draw the same random bytes: from getrandom(), /dev/urandom, and Python's
# secrets and uuid4, in a process that is started after the clone. RANDOM_CLONES (4) says how many.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
need_debian
clones=${RANDOM_CLONES:-4} batch=20

draw='import os, secrets, uuid
print(os.getrandom(32).hex())
print(open("/dev/urandom", "rb", buffering=0).read(32).hex())
print(secrets.token_hex(32))
print(uuid.uuid4().hex)
print(open("/proc/sys/kernel/random/boot_id").read().strip())'

# The clones of a batch live at the same time, and are gone before the next.
for ((done = 0; done < clones; done += n)); do
	n=$((clones - done < batch ? clones - done : batch))
	mapfile -t guests < <(cs spawn debian --name "$me-$done" --count "$n" --wait)
	for guest in "${guests[@]}"; do
		cs exec "$guest" -- python3 -c "$draw" </dev/null >>"$scratch/drawn"
	done
	cs remove --force "${guests[@]}"
done
is "each of $clones clones has drawn five times" $((clones * 5)) "$(wc -l <"$scratch/drawn")"
is "no two have drawn the same" "" "$(sort "$scratch/drawn" | uniq -d)"
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The root is the template's, by DAX: not copied into the guest, and not to be changed by it.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
cs spawn tiny --name "$me" --wait

# The agent lets go of the mount that is the overlay's lower half. Mounting its device again, without
# asking for dax, is the same file system, and shows what it was mounted with at boot.
claim "the root's file system is mounted with dax" \
	cs exec "$me" -- sh -c 'mount -t erofs -o ro /dev/pmem0 /mnt && grep "^/dev/pmem0 .*dax" /proc/mounts'
is "an overlay is over it" overlay "$(cs exec "$me" -- sh -c 'awk "\$2 == \"/\" { print \$3 }" /proc/mounts | tail -n 1')"

# The guest's page cache before and after it reads a large file.
cached='awk "/^Cached:/ { print \$2 }" /proc/meminfo'
before=$(cs exec "$me" -- sh -c "$cached")
sum=$(cs exec "$me" -- sha256sum /big | cut -d' ' -f1)
after=$(cs exec "$me" -- sh -c "$cached")
below "reading $big_mib MiB grows the guest's page cache by little, in KiB" $((big_mib * 1024 / 10)) $((after - before))
want=$(python3 -c 'import hashlib, random, sys
source, hash = random.Random(1), hashlib.sha256()
for _ in range(int(sys.argv[1])): hash.update(source.randbytes(1 << 20))
print(hash.hexdigest())' "$big_mib")
is "and what it reads is right" "$want" "$sum"

# Everything a guest with root's powers can do to its root.
cs exec "$me" -- sh -c '
	echo changed >/etc/passwd; rm -f /big; : >/bin/busybox.new; mkdir /bin/x
	dd if=/dev/urandom of=/dev/pmem0 bs=64k count=4 conv=fsync
	mount -o remount,rw / ; true' >/dev/null 2>&1 || true
claim "the template is what it was, whatever a guest writes" cs template verify tiny
claim "the guest lives on" cs exec "$me" -- true

# ENOSPC is the guest's own business. Where the guest's kernel is emulated it takes minutes to fill its
# memory: there it is tried when all is (scripts/check --full), and in the testbed always.
if ! emulated || [ -n "${FILL_MEMORY:-}" ]; then
	is "a full overlay is ENOSPC in the guest" full \
		"$(cs exec "$me" -- sh -c 'fallocate -l $(($(df -m / | awk "END { print \$4 }") - 2))M /most
			dd if=/dev/zero of=/fill bs=1M count=1000 2>&1 | grep -q "No space" && echo full; rm -f /fill /most')"
	claim "and it lives on after that too" cs ping "$me"
else
	echo "left out here: a full overlay"
fi
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# pmem list: on any host a report; where there is an NVDIMM (scripts/testbed), what ndctl says, too.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

cs pmem list --json
is "pmem list needs no store, and no pmem" 0 "$rc"
claim "it is JSON" python3 -c 'import json,sys; assert isinstance(json.load(open(sys.argv[1])), list)' "$scratch/out"
fails 2 'Too many arguments' pmem list all
[ -e /sys/bus/nd/devices/region0 ] || { echo "# no pmem here"; finish; }

field() {
	python3 -c 'import json, sys
rows = [r for r in json.load(open(sys.argv[1])) if r["kind"] == sys.argv[2]]
print(rows[0][sys.argv[3]] if rows else "none")' "$scratch/out" "$@"
}
cs pmem list --json
is "the region" region0 "$(field region name)"
is "its size is what sysfs says" "$(cat /sys/bus/nd/devices/region0/size)" "$(field region bytes)"
if [ -n "${CLEARSTORE_TESTBED:-}" ]; then
	ndctl create-namespace -f -e namespace0.0 -m fsdax >/dev/null
	cs pmem list --json
	is "a namespace in fsdax" 'fsdax /dev/pmem0 None' "$(field namespace mode) $(field namespace device) $(field namespace holder)"
	mkfs.ext4 -q -b 4096 /dev/pmem0
	mkdir "$scratch/dax"
	mount -o dax /dev/pmem0 "$scratch/dax"
	cs pmem list --json
	is "mounted" "$scratch/dax" "$(field namespace holder)"
	umount "$scratch/dax"
	ndctl create-namespace -f -e namespace0.0 -m devdax >/dev/null
	cs pmem list --json
	is "and in devdax" 'devdax /dev/dax0.0' "$(field namespace mode) $(field namespace device)"
	claim "aligned" [ "$(field namespace align)" -ge 4096 ]
	ndctl disable-namespace namespace0.0 >/dev/null
	cs pmem list --json
	is "disabled: it has no device" 'False None' "$(field namespace enabled) $(field namespace device)"
fi
finish

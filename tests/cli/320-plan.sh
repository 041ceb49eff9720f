#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# plan, where nothing is measured: its parts add up, and more memory holds more.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

command -v python3 >/dev/null || skip "no python3"
# shellcheck source=tests/cli/plan.sh
. "$(dirname "$0")/plan.sh"

# ---- without a store, and for anyone
cs plan --memory 128G --json
is "without a store" 0 "$rc"
adds_up "128G"
is "nothing of it is measured" set "$(told '{name for name, row in guest.items() if row["source"] == "measured"} or "set"')"
is "beside it: 3500 in 128 GB" 3500 "$(told 'published["Clear Containers, by number"]["guests"]')"
is "which is 37 MB" 37 "$(told 'published["Clear Containers, by number"]["bytes"] >> 20')"
many=$(told 'result["idle"]["guests"]')
cs plan --memory 256G --json
is "twice the memory: twice the guests, and a few" True "$(told "2.05 > result['idle']['guests'] / $many > 2")"
cs plan --memory 128G --vcpus 4 --json
is "each vCPU costs" True "$(told "result['idle']['guests'] < $many and guest['vCPUs']['bytes'] % 4 == 0")"
cs plan --memory 128G --guest-memory 1G --json
is "so does memory, by its slot, where paging is by shadow" True "$(told \
	"(result['idle']['guests'] < $many) == (\"KVM's slots\" in guest and 'shadow' in guest[\"KVM's slots\"]['how'])")"
cs plan --json
is "of this host: its memory" True "$(told "host['memory']['bytes'] == $(awk '$1 == "MemTotal:" {
print $2 " * 1024" }' /proc/meminfo) and host['page structures']['bytes'] == 0")"
cs plan --memory 1G
is "a table" 0 "$rc"
claim "with both numbers" grep -qE '^result +after a command in each ' <<<"$out"
cs plan --memory 256M --json
is "a host with room for nothing: 0" 0 "$(told 'result["idle"]["guests"]')"

fails 1 "memory 'much': not a size" plan --memory much
fails 1 "memory '-1G': not a size" plan --memory=-1G
fails 1 "vcpus '0'" plan --vcpus 0
fails 1 "vcpus '255'" plan --vcpus 255
fails 1 "guest memory '1M': too little" plan --guest-memory 1M
fails 1 "guest memory '2G': more than the 1.0 GiB of the host" plan --memory 1G --guest-memory 2G
fails 2 "nothing goes here" plan debian
fails 1 "/nonexistent/clearstore-test" plan --template nosuch

finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# template add killed with SIGKILL at 20 random moments: after the next command there is the whole
# template or none, no subvolume, mount, loop device or temporary file too many, and no process.
# CLEARSTORE_TEST_KILLS sets how often.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

image_store 1G
command -v btrfs >/dev/null || skip "no btrfs (apt-get install btrfs-progs)"
kills=${CLEARSTORE_TEST_KILLS:-20}
fake_kernel "$kernel" 6.12.1-clearstore 2
fake_root "$scratch/root"
head -c 40M /dev/urandom >"$scratch/root/large"
tar -C "$scratch/root" --sparse -cf "$scratch/root.tar" .
RANDOM=4711

subvolumes() {
	btrfs subvolume list "$store" | wc -l
}

loops() {
	losetup -ln -O BACK-FILE | grep -c "^$scratch/" || true
}

# Programs that work for a killed clearstore: they die with it.
helpers() {
	local pid

	for pid in /proc/[0-9]*; do
		if { tr '\0' ' ' <"$pid/cmdline"; } 2>/dev/null | grep -q '^mk[a-z0-9.]* .*-L clearstore'; then
			echo "${pid#/proc/}"
		fi
	done
}

# They get their signal when clearstore is dead, and may take a moment to end.
no_helpers() {
	local i

	for ((i = 0; i < 300; i++)); do
		[ -n "$(helpers)" ] || return 0
		sleep 0.1
	done
	helpers
	return 1
}

settled() {
	local i

	# A killed process lets go of its mounts and devices a moment later.
	for ((i = 0; i < 100; i++)); do
		if [ "$(loops)" -eq 1 ] && [ "$(grep -c " $scratch/" /proc/self/mounts)" -eq 1 ]; then
			return 0
		fi
		sleep 0.1
	done
	losetup -ln -O NAME,BACK-FILE | grep "$scratch/" || true
	grep " $scratch/" /proc/self/mounts
	return 1
}

now_ms() {
	echo $((${EPOCHREALTIME/./} / 1000))
}

# How long it takes when it is let alone: the shortest of three, so that most kills come in time.
took() {
	local start ms i

	for ((i = 0; i < 3; i++)); do
		start=$(now_ms)
		cs template add whole --from "$1" --root-format "$2"
		[ "$rc" -eq 0 ] || skip "cannot add a $2 template: $err"
		ms=$(($(now_ms) - start))
		if [ "$ms" -lt "${alone_ms[$2]:-$((ms + 1))}" ]; then alone_ms[$2]=$ms; fi
		cs template remove whole
	done
}

declare -A alone_ms
took "$scratch/root" erofs
formats=(erofs)
if grep -qw erofs /proc/filesystems || modprobe erofs 2>/dev/null; then
	took "$scratch/root" ext4
	formats+=(ext4)
else
	echo "# ext4 is not tried: this kernel has no EROFS"
fi
cs template add other --from "$scratch/root.tar"
before=$(subvolumes)
finished=0

for ((i = 0; i < kills; i++)); do
	format=${formats[i % ${#formats[@]}]}
	from=$scratch/root
	[ $((i % 3)) -ne 0 ] || from=$scratch/root.tar
	ms=$((RANDOM % (alone_ms[$format] + 1)))
	"$program" template add new --from "$from" --root-format "$format" >/dev/null 2>&1 &
	pid=$!
	sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
	kill -9 "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true

	cs template list
	is "$format, killed after $ms ms: the next command works" 0 "$rc"
	if [ -e "$store/templates/new" ]; then
		finished=$((finished + 1))
		cs template verify new
		is "$format, killed after $ms ms: it was done, and is whole" 0 "$rc"
		cs template remove new
		is "$format, killed after $ms ms: it can be removed" 0 "$rc"
	fi
	claim "$format, killed after $ms ms: nothing half-made" only_templates other
	is "$format, killed after $ms ms: no subvolume too many" "$before" "$(subvolumes)"
	claim "$format, killed after $ms ms: no mount or loop device too many" settled
	claim "$format, killed after $ms ms: no program of it lives on" no_helpers
	is "$format, killed after $ms ms: no temporary file" '' "$(ls -A "$TMPDIR")"
done
echo "# $kills kills, $finished of them too late"
cs template verify other
is "the other template is as it was" 0 "$rc"

# The same for remove.
for ((i = 0; i < 5; i++)); do
	cs template add new --from "$scratch/root"
	"$program" template remove new >/dev/null 2>&1 &
	pid=$!
	sleep "0.00$i"
	kill -9 "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
	cs template list
	if [ -e "$store/templates/new" ]; then
		cs template verify new
		is "remove killed after $i ms: it is still there, whole" 0 "$rc"
		cs template remove new
	fi
	claim "remove killed after $i ms: nothing half-removed" only_templates other
done
finish

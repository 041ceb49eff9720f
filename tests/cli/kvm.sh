# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What tests with machines but without a Linux share: a store in a folder, and templates "idle",
# "reset" and "fault" of the kernels of tiny-kernel.py. To be sourced in place of lib.sh.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export CLEARSTORE_STORE=$scratch/store
# shellcheck disable=SC2034 # for those that source this
guests=$scratch/folder/guests
here=$(dirname "${BASH_SOURCE[0]}")

cleanup() {
	"$program" remove --force --all >/dev/null 2>&1 || true
	rm -rf --one-file-system "$scratch"
}

[ "$(id -u)" -eq 0 ] || skip "needs root, as monitors become users of their own"
[ -c /dev/kvm ] || skip "no /dev/kvm"
for tool in mkfs.erofs mke2fs python3; do
	PATH=$PATH:/usr/sbin:/sbin command -v $tool >/dev/null || skip "no $tool"
done
cs doctor
! grep -q '^fail  kvm:' "$scratch/out" || skip "no usable KVM: $(grep '^fail  kvm:' "$scratch/out")"
mkdir -p "$scratch/folder" "$scratch/root/bin"
cp /bin/true "$scratch/root/bin/"
cs init --path "$scratch/folder"
[ "$rc" -eq 0 ] || skip "no store in a folder: $err"
trap cleanup EXIT
for kind in idle reset fault; do
	python3 "$here/tiny-kernel.py" $kind >"$scratch/$kind"
	# There is no user space: any program passes for the agent.
	cs template add $kind --from "$scratch/root" --kernel "$scratch/$kind" --agent /bin/true
	[ "$rc" -eq 0 ] || {
		echo "NOT OK: cannot add template $kind: $err"
		exit 1
	}
done

# A field of a guest, as show --json has it: of GUEST, KEY
field() {
	"$program" show "$1" --json | python3 -c 'import json, sys
print(json.load(sys.stdin)[sys.argv[1]])' "$2"
}

# Names of guests, as list tells them; "--": all.
names() {
	"$program" list --quiet "$@" | xargs
}

# Try for 20 seconds until it succeeds.
eventually() {
	local end=$((SECONDS + 20))

	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || { "$@"; return; }
		sleep 0.1
	done
}

stopped_by() {
	[ "$(field "$1" stop_reason)" = "$2" ]
}

# Living processes that are monitors of guests whose names begin so.
monitors() {
	ps -eo stat=,comm= | awk -v comm="cs:$1" '$1 !~ /^Z/ && index($2, comm) == 1' | wc -l
}

no_monitor() {
	[ "$(monitors "$1")" -eq 0 ]
}

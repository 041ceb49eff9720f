# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What tests with real guests share. To be sourced first; then state claims, and end with `finish`.
#
# A test uses the store of a fixture that is built once for a given program, agent, kernel and roots,
# and kept in $CLEARSTORE_TEST_DIR (by default in the cache, outside the tree). Its templates:
#   tiny     busybox and a file of $big_mib MiB, /big: BIG_MIB, 8 by default
#   debian   a real Debian (scripts/debian-root), for what needs one: ask with need_debian
# Both hold a booted machine of 128 MiB and one CPU, so most guests need not boot; --cold ones, those
# that persist and those with more CPUs do.
# Guests are named after the test ($me-...), so tests can run at the same time; one that measures the
# host says `alone=1` before it sources this file. Whatever a test leaves is found and makes it fail.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=${CLEARSTORE_CACHE:-/var/cache/clearstore}
fixtures=${CLEARSTORE_TEST_DIR:-$cache/test}
program=${CLEARSTORE:-$(command -v clearstore || true)}
me=t$(basename "$0" .sh | sed 's/^\([0-9]*\)-.*/\1/')
failed=0 claims=0

skip() {
	echo "skipped: $*"
	exit 77
}

[ "$(id -u)" -eq 0 ] || skip "needs root, to mount a store"
[ "${CLEARSTORE_TEST_GUESTS:-yes}" = yes ] || skip "tests with guests were switched off (CLEARSTORE_TEST_GUESTS)"
[ -c /dev/kvm ] || skip "no /dev/kvm (scripts/testbed has one)"
[ -x "$program" ] || skip "no clearstore to test (CLEARSTORE=/path/to/it)"
kernel=${CLEARSTORE_KERNEL:-$cache/kernel/$("$top/scripts/build-kernel" --print-hash 2>/dev/null)/vmlinux}
[ -f "$kernel" ] || skip "no guest kernel yet (scripts/build-kernel makes it)"
big_mib=${BIG_MIB:-8}
busybox=$(command -v busybox) || skip "no busybox (apt-get install busybox-static)"

# The program, never for longer than a host of two cores that is busy with others may take; and
# without the test's own descriptors, or a guest would hold the fixture's lock.
cs() {
	timeout --foreground "${CS_TIMEOUT:-600}" "$program" --store "$store" "$@" 8>&- 9>&-
}

# Does this host's KVM emulate guest kernel code? Then all that the guest's kernel does is slow.
emulated() {
	[[ $("$program" doctor 2>/dev/null || true) == *"a SYSCALL does not enter the kernel"* ]]
}

# A field of a guest, as `show --json` has it: field GUEST KEY
field() {
	cs show "$1" --json | python3 -c 'import json, sys
value = json.load(sys.stdin)[sys.argv[1]]
print({True: "yes", False: "no", None: "-"}.get(value, value) if not isinstance(value, int) or
      isinstance(value, bool) else value)' "$2"
}

# ---- claims: each is printed, all are tried, one that fails makes the test fail

# claim WORDS COMMAND...: it must succeed; its output is shown when it does not.
claim() {
	local words=$1 out rc=0

	shift
	claims=$((claims + 1))
	out=$("$@" 2>&1) || rc=$?
	if [ "$rc" -eq 0 ]; then
		echo "ok: $words"
	else
		failed=$((failed + 1))
		printf 'NOT OK: %s (status %s)\n' "$words" "$rc"
		printf '%s\n' "$out" | tail -n 20 | sed 's/^/    | /'
	fi
}

# is WORDS WANTED GOT
is() {
	claim "$1" same "$2" "$3"
}

same() {
	[ "$1" = "$2" ] || { printf 'wanted: %s\ngot:    %s\n' "$1" "$2"; return 1; }
}

# below WORDS LIMIT GOT
below() {
	claim "$1 ($3, limit $2)" test "$3" -lt "$2"
}

# status_of COMMAND...: prints its exit status, whatever it is.
status_of() {
	local rc=0

	"$@" >/dev/null 2>&1 || rc=$?
	echo "$rc"
}

# Try until it succeeds: eventually SECONDS COMMAND...
eventually() {
	local end=$((SECONDS + $1))

	shift
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || { "$@"; return; }
		sleep 0.2
	done
}

# ---- the fixture

# A root of busybox alone, and a file that is worth sharing.
make_tiny() {
	local root=$1 name

	mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,proc,sys,dev,run,tmp,root,var,mnt}
	chmod 1777 "$root/tmp"
	cp "$busybox" "$root/bin/busybox"
	for name in $("$busybox" --list); do
		[ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
	done
	printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$root/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
	# Bytes that do not repeat and are the same each time.
	python3 -c 'import random, sys
source = random.Random(1)
for _ in range(int(sys.argv[1])): sys.stdout.buffer.write(source.randbytes(1 << 20))' "$big_mib" >"$root/big"
}

# Everything that decides what the fixture is.
fixture_key() {
	{
		sha256sum <"$program"
		echo "$kernel $(stat -c '%s %Y' "$kernel") $(sha256sum <"$busybox") $big_mib"
		declare -f make_tiny make_fixture
	} | sha256sum | cut -c 1-16
}

make_fixture() {
	local new=$fixture.new

	# A test that was killed here may have left it half-made and mounted.
	! mountpoint -q "$new/store" || umount "$new/store"
	rm -rf --one-file-system "$new"
	mkdir -p "$new"
	make_tiny "$new/tiny"
	cs init --size 8G >&2
	cs template add tiny --from "$new/tiny" --kernel "$kernel" >&2
	cs template warm tiny >&2
	rm -rf --one-file-system "$new/tiny"
	umount "$new/store"
	mv "$new" "$fixture"
}

# The real Debian, added on demand: not every test, nor every host, has time for it.
need_debian() {
	local root

	root=$("$top/scripts/debian-root" 8>&- 9>&-) || skip "no Debian root (scripts/debian-root failed)"
	(
		exec 8>"$fixture.debian.lock"
		flock 8
		# Killed between the two, it is not warm: then its guests boot, and the tests hold too.
		if ! cs template show debian >/dev/null 2>&1; then
			cs template add debian --from "$root" --kernel "$kernel"
			cs template warm debian
		fi
	)
}

unmount_store() {
	! mountpoint -q "$store" || umount "$store"
}

# Fixtures of programs that are no more: all but the newest three.
forget_fixtures() {
	local old

	find "$fixtures" -mindepth 1 -maxdepth 1 -type d -name '????????????????' -printf '%T@ %p\n' |
		sort -rn | awk 'NR > 3 { print $2 }' | while read -r old; do
		# Its lock tells whether somebody uses it.
		(
			exec 8>"$old.lock"
			flock -n -x 8 || exit 0
			! mountpoint -q "$old/store" || umount "$old/store"
			rm -rf --one-file-system "$old" "$old.lock" "$old.debian.lock"
		)
	done
}

take_fixture() {
	mkdir -p "$fixtures"
	fixture=$fixtures/$(fixture_key)
	exec 9>"$fixture.lock"
	if [ ! -d "$fixture" ]; then
		flock -x 9
		if [ ! -d "$fixture" ]; then
			store=$fixture.new/store
			make_fixture
			forget_fixtures
		fi
	fi
	store=$fixture/store
	touch "$fixture"
	if [ -n "${alone:-}" ]; then flock -x 9; else flock -s 9; fi
}

# ---- the end

# Names of the guests and templates that this test made and that are still in the store.
my_guests() {
	find "$store/guests" -mindepth 1 -maxdepth 1 -name "$me*" -printf '%f\n' 2>/dev/null
}

my_templates() {
	find "$store/templates" -mindepth 1 -maxdepth 1 -name "$me*" -printf '%f\n' 2>/dev/null
}

cleanup() {
	local rc=$? guest pid left='' loops='' my_pids

	trap - EXIT
	set +e
	my_pids=$(for guest in $(my_guests); do field "$guest" pid 2>/dev/null; done)
	my_guests | xargs -r "$program" --store "$store" remove --force 8>&- 9>&-
	[ -z "$(my_guests)" ] || left="guests $(my_guests | tr '\n' ' ')"
	# Those of a test that failed half-way: without them the next run of it finds what it expects.
	my_templates | xargs -r -n 1 "$program" --store "$store" template remove >/dev/null 2>&1 8>&- 9>&-
	[ -z "$(my_templates)" ] || left+=" templates $(my_templates | tr '\n' ' ')"
	for pid in $my_pids; do
		# A killed one may still be giving its memory back. A zombie is its parent's business, or init's.
		for _ in {1..300}; do
			grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$pid/status" || continue 2
			sleep 0.2
		done
		left+=" process $pid ($(grep -s '^State:' "/proc/$pid/status"))"
	done
	[ -z "$scratch" ] || rm -rf --one-file-system "$scratch"
	# The last one out takes the mount away. That it can shows that no process holds the store.
	flock -u 9
	if flock -n -x 9; then
		unmount_store || left+=" a mount of $store that something holds"
		# It goes when its last user does, which may be somebody who only looks at devices.
		for _ in {1..50}; do
			loops=$(losetup -j "$store.img" 2>/dev/null)
			[ -n "$loops" ] || break
			sleep 0.2
		done
		[ -z "$loops" ] || left+=" loop device $loops"
	fi
	if [ -n "$left" ]; then
		echo "NOT OK: left behind:$left"
		[ "$rc" -ne 0 ] || rc=1
	fi
	exit "$rc"
}

finish() {
	echo "$((claims - failed)) of $claims claims hold"
	[ "$failed" -eq 0 ] || exit 1
	exit 0
}

take_fixture
scratch=$(mktemp -d "${TMPDIR:-/tmp}/clearstore-$me.XXXXXX")
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

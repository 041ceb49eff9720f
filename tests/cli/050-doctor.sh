#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What doctor says, of hosts made of files.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

unset CLEARSTORE_AGENT CLEARSTORE_KERNEL CLEARSTORE_KVM
root=$scratch/root
put() { # PATH TEXT
	mkdir -p "$root/$(dirname "$1")"
	printf '%s\n' "$2" >"$root/$1"
}

# A host where all is well but KVM, of which no file can play the part.
good_host() {
	put proc/meminfo $'MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:   12000000 kB'
	put proc/cpuinfo $'processor\t: 0\nflags\t\t: fpu vmx\n\nprocessor\t: 1\nflags\t\t: fpu vmx'
	put proc/self/mounts $'/dev/vda1 / ext4 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,favordynmods 0 0'
	put proc/filesystems $'nodev\tproc\n\text4\n\tbtrfs'
	put proc/sys/kernel/seccomp/actions_avail 'kill_process kill_thread errno allow'
	put proc/sys/kernel/pid_max 4194304
	put proc/sys/kernel/threads-max 200000
	put proc/sys/kernel/io_uring_disabled 0
	put proc/sys/fs/file-max 9223372036854775807
	put proc/sys/vm/max_map_count 65530
	put proc/sys/vm/overcommit_memory 0
	put sys/module/kvm/parameters/nx_huge_pages Y
	put sys/module/kvm/parameters/halt_poll_ns 200000
	put sys/kernel/mm/ksm/run 1
	put sys/kernel/mm/ksm/advisor_mode '[none] scan-time'
	put sys/kernel/mm/transparent_hugepage/enabled 'always [madvise] never'
	put dev/loop-control ''
	for tool in mkfs.erofs mke2fs mkfs.btrfs; do
		put "usr/sbin/$tool" ''
		chmod +x "$root/usr/sbin/$tool"
	done
}

# says LEVEL CHECK WORDS: that one line is there.
says() {
	claim "$1: $2: $3" line "$1" "$2" "$3"
}
line() {
	has "$(grep -E "^$1 +$2: " "$scratch/out")" "$3"
}
doctor() {
	cs doctor --root "$root"
}

good_host
doctor
is "without /dev/kvm it fails" 1 "$rc"
says fail kvm '/dev/kvm'
checks=$(wc -l <"$scratch/out")
claim "a line for each check ($checks)" test "$checks" -ge 20
claim "and all are well formed" same "$checks" "$(grep -cE '^(ok  |warn|fail)  [a-z0-9.-]+: .' "$scratch/out")"
says ok nested 'no virtual machine'
says ok nx-huge-pages 'cgroups favour changes'
says ok halt-polling '200000 ns'
says ok seccomp 'confined'
says ok memory '308 guests'
says ok ksm 'advisor none'
says ok pmem 'no persistent memory'
says ok huge-pages madvise
says ok overcommit 0
says ok pid-max 4194304
says ok threads-max 200000
says ok max-map-count 65530
says ok io-uring on
says ok btrfs 'has it'
says ok loop-devices there
says warn store '(clearstore init)'
for tool in mkfs.erofs mke2fs mkfs.btrfs; do says ok "$tool" there; done
says warn guest-kernel 'scripts/build-kernel'
says warn agent 'make install'

CLEARSTORE_AGENT=/bin/sh CLEARSTORE_KERNEL=/nonexistent/vmlinux doctor
says ok agent '/bin/sh (CLEARSTORE_AGENT)'
says fail guest-kernel "no '/nonexistent/vmlinux' (CLEARSTORE_KERNEL)"

# The thread is there also when it has nothing to do.
put sys/module/kvm/parameters/nx_huge_pages N
put proc/sys/kernel/osrelease 6.1.0-40-amd64
doctor
says ok nx-huge-pages 'all the same'
is "a kernel that does not know never is not told" 0 "$(grep nx-huge-pages: "$scratch/out" | grep -c never)"
put proc/sys/kernel/osrelease 6.12.5
doctor
says ok nx-huge-pages 'echo never > /sys/module/kvm/parameters/nx_huge_pages)'
put sys/module/kvm/parameters/nx_huge_pages never
doctor
says ok nx-huge-pages 'never: no thread'
put sys/module/kvm/parameters/nx_huge_pages Y

# And one thing wrong at a time, with its remedy.
put proc/cpuinfo $'flags\t\t: fpu hypervisor vmx'
put proc/self/mounts 'cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0'
put proc/filesystems $'\text4\n\tnotbtrfs'
put proc/sys/kernel/seccomp/actions_avail 'kill_thread errno allow'
put proc/sys/kernel/pid_max 2048
put proc/sys/kernel/threads-max 2048
put proc/sys/kernel/io_uring_disabled 2
put proc/sys/fs/file-max 1000
put proc/sys/vm/max_map_count 100
put proc/sys/vm/overcommit_memory 2
put sys/kernel/mm/ksm/run 0
put sys/kernel/mm/transparent_hugepage/enabled '[always] madvise never'
put sys/bus/nd/devices/region0 ''
rm "$root/dev/loop-control" "$root"/usr/sbin/*
PATH=/nonexistent:$PATH doctor
is "it fails" 1 "$rc"
says ok nested 'virtual machine itself'
says warn nx-huge-pages '(mount -o remount,favordynmods /sys/fs/cgroup/unified)'
says fail seccomp 'Linux 4.14'
says warn pid-max '(sysctl kernel.pid_max='
says warn threads-max '(sysctl kernel.threads-max='
says warn file-max '(sysctl fs.file-max='
says warn max-map-count '(sysctl vm.max_map_count='
says warn overcommit '(sysctl vm.overcommit_memory=0)'
says warn io-uring '(sysctl kernel.io_uring_disabled=0)'
says warn ksm '(echo 1 > /sys/kernel/mm/ksm/run)'
says warn huge-pages '(echo madvise > /sys/kernel/mm/transparent_hugepage/enabled)'
says ok pmem '1 devices'
says warn btrfs 'CONFIG_BTRFS_FS'
says warn loop-devices 'modprobe loop'
says warn mkfs.erofs '(apt-get install erofs-utils)'
says warn mke2fs '(apt-get install e2fsprogs)'
says warn mkfs.btrfs '(apt-get install btrfs-progs)'

# Btrfs as a module that is not loaded yet.
put "lib/modules/$(uname -r)/modules.dep" 'kernel/fs/btrfs/btrfs.ko.xz: kernel/lib/raid6/raid6_pq.ko.xz'
doctor
says ok btrfs 'has it'

# Nonsense in the files is no reason to fall over, nor to steer the terminal.
for file in proc/meminfo proc/cpuinfo proc/self/mounts proc/sys/kernel/pid_max sys/kernel/mm/ksm/advisor_mode; do
	head -c 3000 /dev/urandom >"$root/$file"
done
doctor
is "random bytes: as many lines" "$checks" "$(wc -l <"$scratch/out")"
claim "and no control characters" sh -c "! LC_ALL=C grep -q '[[:cntrl:]]' '$scratch/out'"
rm -r "${root:?}"/*
doctor
is "an empty host: as many lines" "$checks" "$(wc -l <"$scratch/out")"
is "and a failure" 1 "$rc"

good_host
cs doctor --json --root "$root"
is "--json has as many checks" "$checks" "$(python3 -c 'import json, sys
checks = json.load(sys.stdin)
assert all(set(c) == {"check", "level", "finding", "remedy"} for c in checks)
print(len(checks))' <"$scratch/out")"
is "and the same exit status" 1 "$rc"
fails 1 "cannot open '$scratch/nowhere'" doctor --root "$scratch/nowhere"

# A device that is none.
export CLEARSTORE_KVM=/dev/null
cs doctor
is "a /dev/kvm that is none fails" 1 "$rc"
says fail kvm '/dev/null'
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A guest is put to sleep on disk, and goes on where it stood, as itself.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

guest=$me-a
folder=$store/guests/$guest

# KiB on disk of what is parked, besides the pages that differ.
overhead() {
	local total pages

	total=$(du -s -k "$folder" | cut -f 1)
	pages=$(($(stat -c %s "$folder/parked/memory") / 1024))
	echo $((total - pages))
}

state() {
	[ "$(field "$guest" state)" = "$1" ]
}

ids() {
	cs exec "$guest" -- sh -c 'hostname; cat /proc/sys/kernel/random/boot_id; cat /etc/machine-id 2>/dev/null || :'
}

# Reads the clock in the guest: right to some seconds, since an exec takes them on some hosts.
clock_is_right() {
	local now

	now=$(cs exec "$guest" -- date +%s)
	[ $((now - EPOCHSECONDS)) -ge -6 ] && [ $((now - EPOCHSECONDS)) -le 6 ]
}

claim "a guest is spawned" cs spawn tiny --name "$guest" --wait
cs exec "$guest" -- sh -c 'echo mine >/tmp/mine; head -c 300000 /dev/urandom >/tmp/noise
	(while :; do echo >>/tmp/n; sleep 1; done) >/dev/null 2>&1 &'
before=$(ids)
noise=$(cs exec "$guest" -- md5sum /tmp/noise)
pid=$(field "$guest" pid)
claim "it is parked" cs park "$guest"
is "it is listed as parked" parked "$(field "$guest" state)"
is "its process is gone" gone "$([ -e "/proc/$pid" ] && ! grep -q '^State:.*[ZX]' "/proc/$pid/status" || echo gone)"
below "besides its pages it costs little on disk, in KiB" 1024 "$(overhead)"
is "its template stays while it sleeps" 1 "$(status_of cs template remove tiny)"
is "it cannot be parked twice" 1 "$(status_of cs park "$guest")"
sleep 5

claim "a ping wakes it" cs ping "$guest"
is "it runs" running "$(field "$guest" state)"
is "it is who it was" "$before" "$(ids)"
is "it has what it had in memory" "$noise" "$(cs exec "$guest" -- md5sum /tmp/noise)"
claim "its clock is right" clock_is_right
claim "its process goes on" cs exec "$guest" -- sh -c 'a=$(wc -l </tmp/n); sleep 4; [ "$(wc -l </tmp/n)" -gt "$a" ]'
is "nothing of it is left on disk" no "$([ -e "$folder/parked" ] && echo yes || echo no)"

# ---- several want it at once: one wakes it, all are served
claim "it is parked" cs park "$guest"
for i in 1 2 3 4; do
	cs ping --timeout 20 "$guest" >"$scratch/ping.$i" 2>&1 &
done
wait
is "four pings at once wake it" 4 "$(cat "$scratch"/ping.* | grep -c answered)"

# ---- paused it stands still, and its clock is right when it goes on
claim "it is paused" cs pause "$guest"
is "is listed as paused" paused "$(field "$guest" state)"
sleep 10
claim "and resumed" cs resume "$guest"
claim "its clock is right" clock_is_right
is "is listed as running" running "$(field "$guest" state)"

# What it drew from the pool in its sleep nobody else has; and neither has it twice.
for _ in 1 2 3; do
	claim "it is parked again" cs park "$guest"
	is "an exec wakes it" mine "$(cs exec "$guest" -- cat /tmp/mine)"
	cs exec "$guest" -- sh -c 'head -c 16 /dev/urandom | od -An -tx1' >>"$scratch/random"
done
is "it has drawn three times" 3 "$(wc -l <"$scratch/random")"
is "its random numbers do not repeat" "" "$(sort "$scratch/random" | uniq -d)"

runs_or_is_parked() {
	state running || state parked
}

# ---- kill -9 of who parks it, sooner and later: the guest runs, or it is parked
for ms in 020 100 200 300 400 500 600; do
	cs ping "$guest" >/dev/null
	"$program" --store "$store" park "$guest" >/dev/null 2>&1 8>&- 9>&- &
	sleep "0.$ms"
	kill -9 $! 2>/dev/null || true
	wait $! 2>/dev/null || true
	claim "killed after $ms ms it runs or is parked ($(field "$guest" state))" eventually 10 runs_or_is_parked
	claim "and answers" cs ping "$guest"
	is "and nothing half done is left" "" "$(cs list >/dev/null; find "$store/guests/.marks" -name "park-$guest")"
done

is "it has what it had" mine "$(cs exec "$guest" -- cat /tmp/mine)"

# ---- a connection wakes it, where there is somebody to notice
"$program" --store "$store" activate 8>&- 9>&- &
activator=$!
connect() {
	python3 -c 'import os, socket, sys, time
folder = os.open(sys.argv[1], os.O_RDONLY)
# The socket of the monitor that is gone refuses, until the one that wakes is there.
for _ in range(150):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    try:
        s.connect("/proc/self/fd/%d/vsock.sock" % folder)
        break
    except (ConnectionRefusedError, FileNotFoundError):
        time.sleep(0.1)
s.sendall(b"CONNECT 1\n")
print(s.makefile().readline().split()[0])' "$folder"
}
for _ in 1 2; do
	claim "it is parked" cs park "$guest"
	is "who connects is answered" OK "$(connect)"
	is "by the guest, which runs" running "$(field "$guest" state)"
	claim "and serves as before" cs ping "$guest"
done
kill -TERM $activator
rc=0
wait $activator || rc=$?
is "it ends when it is told to" 0 "$rc"

# ---- what is broken is refused, and the guest is not lost by that
claim "it is parked" cs park "$guest"
cp "$folder/parked/state" "$scratch/state"
printf 'x' | dd of="$folder/parked/state" bs=1 seek=2000 conv=notrunc status=none
is "a changed state is refused" 1 "$(status_of cs start "$guest")"
is "the guest is still parked" parked "$(field "$guest" state)"
cat "$scratch/state" >"$folder/parked/state"
cp "$folder/parked/memory" "$scratch/memory"
truncate -s -4096 "$folder/parked/memory"
is "a truncated memory is refused" 1 "$(status_of cs start "$guest")"
is "the guest is still parked" parked "$(field "$guest" state)"
cat "$scratch/memory" >"$folder/parked/memory"
claim "as it was, it wakes" cs start "$guest" --wait
is "with what it had" mine "$(cs exec "$guest" -- cat /tmp/mine)"

# ---- stop and remove
claim "it is parked" cs park "$guest"
claim "and stopped" cs stop "$guest"
is "is stopped" stopped "$(field "$guest" state)"
claim "and starts anew" cs start "$guest" --wait
is "without what it had" 1 "$(status_of cs exec "$guest" -- test -e /tmp/mine)"
claim "it is parked" cs park "$guest"
claim "and removed" cs remove "$guest"
is "it is gone" "" "$(my_guests)"

# ---- with a disk of its own: memory and disk stay of one moment
claim "a guest with a disk is spawned" cs spawn tiny --name "$guest" --persist --wait
for n in 1 2; do
	cs exec "$guest" -- sh -c "echo $n >>/root/log; sync"
	cs exec "$guest" -- sh -c "echo unsynced $n >>/root/log"
	# What else stops it for a moment must not let it go on behind its picture.
	cs fold "$guest" >/dev/null 2>&1 &
	claim "it is parked ($n)" cs park "$guest"
	wait
	claim "and wakes ($n)" cs ping "$guest"
done
is "its disk has what it wrote" "1 unsynced 1 2 unsynced 2" "$(cs exec "$guest" -- cat /root/log | xargs)"
is "its file system is well" "" "$(cs exec "$guest" -- sh -c 'dmesg | grep -i "EXT4-fs.*error\|I/O error" || :')"
claim "it is parked once more" cs park "$guest"
claim "and removed" cs remove "$guest"

# ---- one that still boots is waited for, unless that is not wanted
claim "a guest boots" cs spawn tiny --cold --name "$guest"
is "which cannot be saved at once" 1 "$(status_of cs save --timeout 0 "$guest" "$me-saved")"
claim "but a moment later" cs save "$guest" "$me-saved"
claim "it runs on" cs ping "$guest"
claim "what was saved goes" cs template remove "$me-saved"
claim "it is started anew" cs restart "$guest"
is "and cannot be parked at once" 1 "$(status_of cs park --timeout 0 "$guest")"
claim "but a moment later" cs park "$guest"
claim "and wakes" cs ping "$guest"
finish

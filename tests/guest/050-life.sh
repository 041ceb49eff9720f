#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A guest's life: start, stop, kill, remove; what --persist keeps and what is lost without it.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
cs spawn tiny --name "$me-keep" --persist &
cs spawn tiny --name "$me-lose" &
wait
for guest in "$me-keep" "$me-lose"; do
	eventually 120 cs ping "$guest"
	cs exec "$guest" -- sh -c 'echo mine >/root/note; rm /etc/group; sync'
done
is "a running guest is shown as running" running "$(field "$me-keep" state)"
is "a guest that runs is not removed" 1 "$(status_of cs remove "$me-keep")"
is "a template in use is not removed" 1 "$(status_of cs template remove tiny)"
is "a name that is taken is refused" 1 "$(status_of cs spawn tiny --name "$me-keep")"

claim "stop" cs stop "$me-keep" &
claim "stop" cs stop "$me-lose"
wait
is "is shown as stopped" stopped "$(field "$me-keep" state)"
is "an exec in a stopped guest fails" 1 "$(status_of cs exec "$me-keep" -- true)"
claim "start" cs start "$me-keep" &
claim "start" cs start "$me-lose"
wait
for guest in "$me-keep" "$me-lose"; do eventually 120 cs ping "$guest"; done
is "with --persist data survives" mine "$(cs exec "$me-keep" -- cat /root/note)"
is "and so does what was removed" 1 "$(status_of cs exec "$me-keep" -- test -e /etc/group)"

# What it removes, the store has again.
disk_blocks() {
	stat -c %b "$store/guests/$me-keep/disk"
}
shrunk() {
	[ "$(disk_blocks)" -lt $((full - 3000)) ]
}
cs exec "$me-keep" -- sh -c 'head -c 2000000 /big >/root/more; sync'
full=$(disk_blocks)
cs exec "$me-keep" -- sh -c 'rm /root/more; sync'
claim "what a guest removes is a hole in its disk again" eventually 60 shrunk
is "without it nothing does" 1 "$(status_of cs exec "$me-lose" -- test -e /root/note)"
is "and what was removed is back" 0 "$(status_of cs exec "$me-lose" -- test -e /etc/group)"

# A full disk is the guest's own business; and it stays so over a kill.
is "kill" 0 "$(status_of cs kill "$me-keep")"
claim "a persistent guest starts again after a kill" cs start "$me-keep"
eventually 120 cs ping "$me-keep"
is "and still has its data" mine "$(cs exec "$me-keep" -- cat /root/note)"

# A guest that powers itself off is stopped, not crashed.
cs exec "$me-lose" -- sh -c 'poweroff -f' >/dev/null 2>&1 || true
stopped() {
	[ "$(field "$1" state)" = stopped ]
}
claim "a guest that powers itself off is stopped" eventually 60 stopped "$me-lose"
cs kill "$me-keep"
for guest in "$me-keep" "$me-lose"; do claim "remove $guest" cs remove "$guest"; done
is "they are gone" "" "$(my_guests)"
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# How guests are started, stopped, killed and swept; with machines that answer nothing.
# shellcheck source=tests/cli/kvm.sh
. "$(dirname "$0")/kvm.sh"

# ---- ends
"$program" spawn reset --name r >/dev/null
"$program" spawn fault --name f >/dev/null
claim "a reset out of the blue is a crash" eventually stopped_by r crash
claim "so is a triple fault" eventually stopped_by f crash
for guest in r f; do is "and that guest has crashed" crashed "$(field $guest state)"; done
"$program" spawn idle --name web --count 3 >/dev/null
kill -KILL "$(field web-2 pid)"
eventually stopped_by web-2 killed
is "kill -9 of a monitor: crashed" crashed "$(field web-2 state)"
is "its sockets are swept" '' "$(find "$guests/web-2" -type s)"
is "the others run" 'web-1 web-3' "$(names --running)"
cs stop --time 0 web-1
is "stop" '0:stopped request' "$rc:$(field web-1 state) $(field web-1 stop_reason)"
cs kill web-3
is "kill" '0:stopped request' "$rc:$(field web-3 state) $(field web-3 stop_reason)"
is "they have left no sockets" '' "$(find "$guests" -type s)"

# ---- start
cs start web-1 web-2 web-3
is "start" '0::' "$rc:$out:$err"
is "all run again" 'web-1 web-2 web-3' "$(names --running)"
fails 1 "guest 'web-1': runs already" start web-1
cs start web-1 web-2 nosuch
is "start goes on behind a failure" '1:3' "$rc:$(wc -l <"$scratch/err")"
"$program" kill web-1
for i in 1 2 3 4 5 6; do
	{ "$program" start web-1 2>/dev/null && echo started; } >"$scratch/start.$i" &
done
wait
is "started six times at once it starts once" 1 "$(cat "$scratch"/start.* | wc -l)"
is "in one process" 1 "$(monitors web-1)"
old=$(field web-1 pid)
cs restart --time 0 web-1
is "restart" 0 "$rc"
claim "is another process" test "$(field web-1 pid)" -ne "$old"
is "that runs" running "$(field web-1 state)"

# ---- persistence is a file of the guest's own
cs spawn idle --persist --name keep
disk=$guests/keep/disk
claim "a persistent guest has a disk" test -s "$disk"
is "that is shown" "$(stat -c %s "$disk")" "$(field keep disk_bytes)"
inode=$(stat -c %i "$disk")
"$program" kill keep
"$program" start keep
is "the same after stop and start" "$inode" "$(stat -c %i "$disk")"
is "others have none" 1 "$(find "$guests" -name disk | wc -l)"

# ---- asking
cs pause web-1
is "pause" '0:paused paused' "$rc:$(field web-1 machine) $(field web-1 state)"
claim "which still is a guest that runs" test -n "$("$program" list --running --quiet | grep -x web-1)"
cs resume web-1
is "resume" '0:booting running' "$rc:$(field web-1 machine) $(field web-1 state)"
cs pause web-1
kill -KILL "$(field web-1 pid)"
claim "one that is killed while it is paused has crashed" eventually stopped_by web-1 killed
cs start web-1
is "and starts" '0:running' "$rc:$(field web-1 state)"
fails 1 "guest 'web-1': " ping --timeout 1 web-1

# ---- balloon and park: nobody in these guests serves either
fails 1 "guest 'web-1': its kernel does not serve the balloon" balloon web-1 64M
fails 1 "size 'much': not a size" balloon web-1 much
fails 1 "size '1M': guest 'web-1' can get by with 24.0 MiB to 128.0 MiB" balloon web-1 1M
fails 1 "size '1G': guest 'web-1' can get by with 24.0 MiB to 128.0 MiB" balloon web-1 1G
cs balloon web-1 --json
is "without a size it shows both" 134217728 "$(python3 -c 'import json, sys
sizes = json.load(sys.stdin)
print(sizes["actual_bytes"] if sizes["actual_bytes"] == sizes["target_bytes"] else sizes)' <<<"$out")"
fails 2 "a guest and a size, no more" balloon web-1 64M 65M
fails 1 "guest 'web-1': its agent is not there yet" park --timeout 1 web-1
fails 1 "guest 'web-1': its agent is not there yet" save --timeout 0 web-1 saved
fails 1 "timeout 'soon': " park --timeout soon web-1
is "a guest that cannot be parked runs on" running "$(field web-1 state)"
is "and nothing is left of the attempt" '' "$(find "$guests" -name 'park*')"
cs stop --time 0 web-2
fails 1 "guest 'web-2': does not run" park web-2
fails 1 "guest 'web-2': not running" balloon web-2
fails 2 "no guest given" park
cs console web-1
is "console ends with its input" 0 "$rc"
"$program" logs --follow web-1 >/dev/null &
follower=$!
"$program" kill web-1
claim "logs --follow ends with its guest" wait $follower
is "show tells what a running one costs" True "$(python3 -c 'import json, sys
guest = json.load(sys.stdin)
print(guest["pss_bytes"] > 0 and guest["private_dirty_bytes"] > 0 and guest["page_table_bytes"] > 0)' \
	< <("$program" show web-3 --json))"
fails 1 "template 'idle'" template remove idle

# ---- run: here nothing ever answers, so it waits until it is told to end
for signal in TERM INT HUP; do
	# A job of a script ignores SIGINT, unless it is told not to.
	python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' "$program" run idle --name gone -- true >/dev/null 2>"$scratch/err" &
	runner=$!
	eventually "$program" show gone
	kill -$signal $runner
	rc=0
	wait $runner || rc=$?
	claim "run ends by SIG$signal" test "$rc" -ne 0
	is "and removes its guest" '0:' "$(monitors gone):$(find "$guests" -name gone)"
done
"$program" run idle --name orphan -- true >/dev/null 2>&1 &
runner=$!
eventually "$program" show orphan
kill -KILL $runner
wait $runner 2>/dev/null || true
cs list --quiet
claim "what a killed run leaves, the next command removes" test ! -e "$guests/orphan"
claim "with its monitor" eventually no_monitor orphan
cs run reset --name early -- true
is "a guest that ends before it answers is a failure of run" 1 "$rc"
is "and is removed" '' "$(find "$guests" -name early)"

cs remove web-3
is "one that runs is not removed" 1 "$rc"
cs remove --force --all
is "unless by force" '0:' "$rc:$(names --)"
is "nothing is left" '' "$(find "$guests" -mindepth 1 -not -path '*/.marks*')"
for kind in idle reset fault; do claim "template $kind can be removed" "$program" template remove $kind; done
finish

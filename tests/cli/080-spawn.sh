#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# spawn: names, how a monitor is cut loose and confined, what is taken back when something fails.
# shellcheck source=tests/cli/kvm.sh
. "$(dirname "$0")/kvm.sh"

# ---- names
cs spawn idle
is "a guest is named after its template" '0:idle-1' "$rc:$out"
cs spawn idle --count 3
is "and its number is a free one" 'idle-2 idle-3 idle-4' "$(xargs <<<"$out")"
"$program" remove --force idle-2 idle-3
cs spawn idle --count 3
is "numbers that became free are used again" 'idle-2 idle-3 idle-5' "$(xargs <<<"$out")"
cs spawn idle --name web
is "a single one has its name as given" web "$out"
cs spawn idle --name set --count 2 --json
is "several have numbers; --json has all of them" 'set-1 set-2' "$(python3 -c 'import json, sys
for g in json.load(sys.stdin):
    assert g["pid"] > 1 and g["running_ms"] > 0 and g["ready_ms"] is None and g["template"] == "idle"
    print(g["name"])' <"$scratch/out" | xargs)"
before=$(names)
fails 1 "guest 'web': there is one" spawn idle --name web
fails 1 "guest 'set-1': there is one" spawn idle --name set --count 5
fails 1 "template 'nosuch'" spawn nosuch
fails 1 "template 'idle'" spawn idle@99
is "refused, nothing was made" "$before" "$(names --)"
for i in 1 2 3 4; do "$program" spawn idle --count 10 >"$scratch/many.$i" & done
wait
is "four at once share no name" 40 "$(sort -u "$scratch"/many.* | wc -l)"
is "and all run" 40 "$("$program" list --json | python3 -c 'import json, sys
mine = set(open(sys.argv[1]).read().split())
print(sum(g["state"] == "running" for g in json.load(sys.stdin) if g["name"] in mine))' \
	<(cat "$scratch"/many.*))"
cs remove --force --all
is "remove --force --all" '0::' "$rc:$(names --):$err"
mkdir "$guests"/idle-{1..40}
cs spawn idle
is "behind many the next free number is found" '0:idle-41' "$rc:$out"
rmdir "$guests"/idle-{1..40}
cs remove --force --all

# ---- cut loose
exec 9>"$scratch/lock"
flock 9
script -qec "'$program' spawn idle --name loose --env A=b --append quiet -- echo 'a b'" /dev/null >/dev/null
exec 9>&-
claim "no descriptor of the caller's is kept" flock -n "$scratch/lock" true
pid=$(field loose pid)
is "when the terminal is closed it runs on" running "$(field loose state)"
is "it is a session of its own" "$pid" "$(ps -o sid= -p "$pid" | xargs)"
is "without a terminal" '?' "$(ps -o tty= -p "$pid" | xargs)"
is "in no folder that it would keep busy" / "$(readlink "/proc/$pid/cwd")"
status() {
	awk -v key="$1:" '$1 == key { print $2 }' "/proc/$pid/status"
}
uid=$((1879048192 + pid))
is "its user is its own" "$uid" "$(status Uid)"
is "so is its group" "$uid" "$(status Gid)"
is "it has no other groups" '' "$(status Groups)"
is "no capabilities" 0000000000000000 "$(status CapPrm)"
is "and gets no new privileges" 1 "$(status NoNewPrivs)"
seccomp=$(status Seccomp)
# A build with sanitizers has no filter.
if grep -q libasan "/proc/$pid/maps"; then seccomp=2; fi
is "its system calls are filtered" 2 "$seccomp"
is "no file of the store is open but the guest's own" "$(readlink -f "$guests/loose")" \
	"$(readlink "/proc/$pid"/fd/* | grep "^$scratch" | sed 's|\(/guests/[^/]*\)/.*|\1|' | sort -u)"
is "its files are nobody else's" 600 "$(stat -c %a "$guests"/loose/*.sock "$guests"/loose/*log | sort -u)"
is "the card has its command" "echo a b" "$(field loose command)"

# ---- a disk of its own size
cs spawn idle --disk 100M --name sized
is "a disk may be smaller than the template's" "0 100" "$rc $(($(stat -c %s "$guests/sized/disk") / 1048576))"
claim "and is a whole file system" e2fsck -fn "$guests/sized/disk"
cs spawn idle --disk 20G --name large
is "or larger" "0 20" "$rc $(($(stat -c %s "$guests/large/disk") / 1073741824))"
is "whoever has one persists" True "$(field large persist)"
"$program" remove --force sized large

# ---- failures
cs spawn idle --count 20 --memory 24M --name small
is "a machine may be small" 0 "$rc"
"$program" remove --force --all
cs spawn idle --name full --append "$(printf 'x%.0s' {1..5000})" --count 30
is "what cannot be started fails" 1 "$rc"
claim "and says which, why and how many" grep -qE "guest 'full-[0-9]+': kernel command line of .* \(0 of 30 guests run\)" "$scratch/err"
is "nothing is left of them" ':0' "$(names --):$(monitors full)"
CLEARSTORE_KVM=/dev/null fails 1 /dev/null spawn idle
CLEARSTORE_KVM=/nonexistent/kvm fails 1 '/nonexistent/kvm' spawn idle
cs spawn reset --wait --name back
is "one that ends before it answers is a failure of --wait" 1 "$rc"
claim "that says so" has "$err" "guest 'back': it ended before it answered: it was reset without a word"
is "but its guest is kept, to be looked at" crashed "$(field back state)"
"$program" remove back

# ---- what the host has no memory for
fails 1 "template 'idle': no memory for 65536 guests: one takes some 4" spawn idle --name much --count 65536
claim "by what is assumed of a guest" has "$err" "MiB (assumed)"
is "none was begun with" ':0' "$(names --):$(monitors much)"
cs spawn idle --name few --count 3
fails 1 "(measured)" spawn idle --name much --count 65536
# Behind that, the next thing that is wrong is the name.
fails 1 "guest 'few-1': there is one" spawn idle --name few --count 65536 --overcommit
for i in 1 2 3; do
	is "a guest goes before others when memory runs out" 500 "$(cat "/proc/$(field few-$i pid)/oom_score_adj")"
done
is "who spawns does not" 0 "$(cat /proc/self/oom_score_adj)"
"$program" remove --force --all

# ---- interrupts
"$program" spawn idle --wait --name never >"$scratch/never" 2>"$scratch/never.err" &
spawner=$!
eventually "$program" show never
sleep 1
kill -TERM $spawner
rc=0
wait $spawner || rc=$?
is "interrupted while it waits: a failure" 1 "$rc"
claim "that says how many run" grep -q 'interrupted: 1 of 1 guests run' "$scratch/never.err"
is "which are told and stay" 'never running' "$(cat "$scratch/never") $(field never state)"
for delay in 0.01 0.03 0.06 0.1 0.2; do
	"$program" spawn idle --name cut --count 60 >"$scratch/cut" 2>/dev/null &
	spawner=$!
	sleep $delay
	kill -TERM $spawner 2>/dev/null || true
	wait $spawner || true
	is "interrupted after $delay s: what is told is what runs" "$(sort "$scratch/cut" | xargs)" \
		"$("$program" list -q | awk '/^cut/' | sort | xargs)"
	"$program" list -q | awk '/^cut/' | xargs -r "$program" remove --force
done
for delay in 0.01 0.03 0.06 0.1 0.2; do
	"$program" spawn idle --name dead --count 60 >/dev/null 2>&1 &
	spawner=$!
	sleep $delay
	kill -KILL $spawner 2>/dev/null || true
	wait $spawner 2>/dev/null || true
	cs list --quiet
	is "spawn killed after $delay s: the store is in order" '0:' "$rc:$err"
	# A monitor that was just forked may still be on its way.
	eventually sh -c "'$program' remove --force --all && [ -z \"\$('$program' list -q)\" ]"
done
claim "no process is left" eventually no_monitor dead
is "nor anything half made" '' "$(find "$guests" -mindepth 1 -name '*dead*')"
finish

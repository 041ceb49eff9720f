#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Commands on guests that do not run, or seem to: their folders are written here by hand.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

export CLEARSTORE_STORE=$scratch/store
mkdir "$scratch/folder"
cs init --path "$scratch/folder"
[ "$rc" -eq 0 ] || skip "no store in a folder: $err"
guests=$scratch/folder/guests
sleepers=()
cleanup() {
	local pid

	for pid in "${sleepers[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
	rm -rf --one-file-system "$scratch"
}
trap cleanup EXIT
boot=$(cat /proc/sys/kernel/random/boot_id)

# A guest's folder: NAME [PID [OWNER [REMOVE]]]. A pid of 0: never started; of 1 with another start
# time: long dead.
guest() {
	local pid=${2:-0} owner=${3:-0} remove=${4:-false}

	mkdir -p "$guests/$1"
	cat >"$guests/$1/card.json" <<-END
		{"format": 1, "guest": "$1", "template": "nosuch", "version": "1", "ram_bytes": 134217728,
		 "disk_bytes": 0, "vcpus": 2, "persist": false, "run_init": false, "resume": false, "remove_on_exit": $remove,
		 "created": 1700000000, "started": 1700000001, "command": ["echo", "a b"], "env": ["A=b"],
		 "append": "quiet", "boot": "$boot",
		 "monitor": {"pid": $pid, "start_ticks": $(ticks "$pid")},
		 "owner": {"pid": $owner, "start_ticks": $(ticks "$owner")}}
	END
}
ticks() {
	if [ "$1" -le 1 ]; then echo "$1"; else sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f20; fi
}
# A process that plays a monitor: its pid is $pid.
sleeper() {
	sleep 1000 &
	pid=$!
	sleepers+=("$pid")
	disown "$pid"
}
field() {
	python3 -c 'import json, sys
found = json.load(sys.stdin)
found = next(g for g in found if g["name"] == sys.argv[1]) if isinstance(found, list) else found
print(found[sys.argv[2]])' "$1" "$2" <"$scratch/out"
}

cs list
is "no guests, no lines" '' "$out"
cs list --json
is "and an empty array" '[]' "$out"

guest web-10
guest web-2 1
guest off 1
echo 'poweroff 3' >"$guests/off/exit"
guest panic 1
echo 'crash -1' >"$guests/panic/exit"
guest odd 1
printf 'whatever\e[31m 99999999999\n' >"$guests/odd/exit"
guest broken
echo '{' >"$guests/broken/card.json"
sleeper
guest runs "$pid"

cs list --quiet
is "list knows all, in the order of their numbers" 'broken odd off panic runs web-2 web-10' "$(xargs <"$scratch/out")"
cs list --quiet --running
is "and which run" runs "$out"
cs list
claim "list has a line for each" test "$(wc -l <"$scratch/out")" -eq 8
cs list --json
for pair in web-10:stopped web-2:crashed off:stopped panic:crashed odd:crashed broken:broken runs:running; do
	is "${pair%:*} is ${pair#*:}" "${pair#*:}" "$(field "${pair%:*}" state)"
done
is "one that never ran is new" new "$(field web-10 stop_reason)"
is "one without an exit line was killed" killed "$(field web-2 stop_reason)"
is "one with an exit line ended as it says" poweroff "$(field off stop_reason)"
is "with its command's status" 3 "$(field off exit_status)"
is "nonsense in an exit line is a crash" crash "$(field odd stop_reason)"

cs show off --json
for pair in 'vcpus:2' 'ram_bytes:134217728' 'command:echo a b' 'environment:A=b' 'append:quiet' 'template:nosuch'; do
	is "show has ${pair%%:*}" "${pair#*:}" "$(field off "${pair%%:*}")"
done
cs show off
claim "show is for people too" grep -q 'EXIT STATUS: *3$' "$scratch/out"
cs show runs
claim "a monitor without a socket does not answer" has "$out" 'does not answer'
fails 1 'clearstore remove broken' show broken
fails 1 'there is none of this name' show nosuch
fails 1 'not a legal name' show ../guests/off

# Logs: as they are into a file; nothing that steers it onto a terminal.
printf 'one\r\n\e[31mred\e[0m\0\n\xff\xfe caf\xc3\xa9\nlast' >"$guests/off/console.log"
echo 'its kernel panicked' >"$guests/off/log"
cs logs off
claim "logs are byte for byte" cmp "$guests/off/console.log" "$scratch/out"
cs logs -f off
claim "following one that does not run ends" cmp "$guests/off/console.log" "$scratch/out"
cs logs --monitor off
is "the monitor's log" 'its kernel panicked' "$out"
cs logs web-10
is "one that never ran has none" '0:' "$rc:$out"
ln -s /etc/passwd "$guests/web-10/console.log"
fails 1 'cannot open its log' logs web-10
if command -v script >/dev/null; then
	script -qec "'$program' logs off" /dev/null </dev/null >"$scratch/out" || true
	claim "on a terminal there are no escape sequences" sh -c "! grep -q '$(printf '\033')' '$scratch/out'"
	claim "nor bytes that are no text" sh -c "iconv -f UTF-8 -t UTF-8 '$scratch/out' >/dev/null"
	claim "but the words are there" grep -q 'café' "$scratch/out"
fi

for command in 'exec off -- true' 'ping off' 'console off'; do
	read -ra words <<<"$command"
	fails 1 "guest 'off': not running (try clearstore start off)" "${words[@]}"
done
for command in kill pause resume; do fails 1 "guest 'off': does not run" $command off; done
cs stop off
is "stopping a stopped one is no failure" '0::' "$rc:$out:$err"
is "and does not change how it ended" 'poweroff 3' "$(cat "$guests/off/exit")"
for command in pause resume stop kill; do
	fails 1 "guest 'nosuch': there is none" $command nosuch
done
if [ -c /dev/kvm ] && [ -w /dev/kvm ]; then
	fails 1 "template 'nosuch'" start off
	fails 1 "guest 'broken'" start broken
	fails 1 "guest 'runs': runs already" start runs
fi

# One that runs.
fails 1 "guest 'runs': runs (clearstore stop runs, or remove --force)" remove runs
fails 1 "guest 'runs'" pause runs
claim "refused, it runs on" kill -0 "$pid"
cs kill runs
is "kill" '0::' "$rc:$out:$err"
gone() {
	[ ! -e "/proc/$1/exe" ] || ! readlink "/proc/$1/exe" >/dev/null 2>&1
}
claim "it is dead" gone "$pid"
cs list --json
is "killed on request it has stopped" 'stopped request' "$(field runs state) $(field runs stop_reason)"
sleeper
guest runs "$pid"
rm -f "$guests/runs/exit"
cs stop --time 0 runs
is "one that does not stop is killed" 0 "$rc"
claim "and that is said" has "$err" "guest 'runs': did not stop, killed"
claim "it is dead" gone "$pid"

# Its pid is another's now: neither killed nor waited for.
sleeper
guest reused 1
sed -i "s/\"pid\": 1, \"start_ticks\": 1/\"pid\": $pid, \"start_ticks\": 1/" "$guests/reused/card.json"
fails 1 'does not run' kill reused
cs remove --force reused
is "it can be removed" 0 "$rc"
claim "and the process lives" kill -0 "$pid"

# What `run` leaves behind when it is killed: found by its mark, owner dead.
sleeper
guest orphan "$pid" 1 true
: >"$guests/.marks/$pid-1-orphan"
sed -i 's/"owner": {"pid": 1/"owner": {"pid": 4194303/' "$guests/orphan/card.json"
mv "$guests/.marks/$pid-1-orphan" "$guests/.marks/$pid-4194303-orphan"
cs list --quiet
claim "the next command removes it" test ! -e "$guests/orphan"
claim "and ends its monitor" gone "$pid"

cs remove nosuch off panic
is "remove goes on behind a failure" 1 "$rc"
claim "tells it" has "$err" "guest 'nosuch'"
cs list --quiet
is "and removes the others" 'broken odd runs web-2 web-10' "$(xargs <"$scratch/out")"
cs remove broken
is "a broken one can be removed" 0 "$rc"
cs remove --all
is "and all of them" 0 "$rc"
cs list --quiet
is "then there is none" '' "$out"
cs remove --all
is "of none all are removed" 0 "$rc"
finish

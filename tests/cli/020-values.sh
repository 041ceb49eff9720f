#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Bad values: status 1 and one line that names the value, what is wrong with it and the way out;
# before anything is opened, so that it needs no store.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

for command in spawn run; do
	for memory in 0 1K 1M 23M; do
		fails 1 "memory '$memory': too little, a guest needs 24" $command debian --memory $memory -- true
	done
	for memory in 1T 16777216T 99999999999999999999; do
		fails 1 "memory '$memory': more than the" $command debian --memory $memory -- true
	done
	for memory in '' x -1 1.5G 128X; do
		fails 1 "memory '$memory': not a size (try 128M)" $command debian "--memory=$memory" -- true
	done
	fails 1 "memory '33554433':" $command debian --memory 33554433 -- true
	for vcpus in 0 255 1000 x ''; do
		fails 1 "vcpus '$vcpus': not a number from 1 to 254" $command debian "--vcpus=$vcpus" -- true
	done
	for name in a/b ../up .hidden -x '' "$(printf 'n%.0s' {1..300})" Upper 'a b' a..b $'a\nb' $'\e[31m'; do
		fails 1 'guest ' $command debian "--name=$name" -- true
	done
	for env in NAME =value ''; do
		fails 1 "env '$env': not NAME=VALUE" $command debian "--env=$env" -- true
	done
done
for count in 0 65537 100000 x -1 ''; do
	fails 1 "count '$count': not a number from 1 to 65536" spawn debian "--count=$count"
done
for size in 63M 0 17T much -1 ''; do
	fails 1 "disk '$size': not " spawn debian "--disk=$size"
done
fails 1 'guest ' spawn debian --count 10 --name "$(printf 'n%.0s' {1..62})"
fails 1 "env 'NAME': not NAME=VALUE" exec --env NAME web -- true
fails 1 '-t: standard input is no terminal' exec -t web -- true
fails 1 '-t: standard input is no terminal' run -t debian -- true
for count in 0 x; do fails 1 "count '$count'" ping --count $count web; done
for timeout in 0 x; do fails 1 "timeout '$timeout'" ping --timeout $timeout web; done

# Nothing that was typed steers the terminal.
no_escape() {
	! grep -q $'\e' "$scratch/err"
}
cs $'sp\e[31mawn'
claim "an escape sequence in a word does not come back" no_escape
cs spawn $'--name=\e]0;title\a' debian
claim "nor one in a value" no_escape
finish

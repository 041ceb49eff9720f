#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# clearstore exec in one running guest: input, output, status, signals, many at once.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"
cs spawn tiny --name "$me" --wait

is "output comes back" "hello from $me" "$(cs exec "$me" -- sh -c 'echo hello from $(hostname)')"
is "so does the status" 9 "$(status_of cs exec "$me" -- sh -c 'exit 9')"
is "a signal that ended it is 128 and its number" 143 "$(status_of cs exec "$me" -- sh -c 'kill -TERM $$')"
is "stderr is apart from stdout" "err" "$(cs exec "$me" -- sh -c 'echo out; echo err >&2' 2>&1 >/dev/null)"
is "what is not there cannot be run" 1 "$(status_of cs exec "$me" -- /no/such/command)"
is "what is no program cannot be run" 1 "$(status_of cs exec "$me" -- /etc/passwd)"
claim "and the message is one line that names it" \
	sh -c "'$program' --store '$store' exec '$me' -- /no/such/command 2>&1 | grep -c /no/such/command | grep -qx 1"
is "a user and a folder can be chosen" "nobody /tmp" \
	"$(cs exec -u nobody -w /tmp "$me" -- sh -c 'echo $(id -un) $(pwd)')"
is "so can its environment" "a value" "$(cs exec -e 'THING=a value' "$me" -- sh -c 'echo "$THING"')"
is "no input is end of file at once" 0 "$(cs exec "$me" -- wc -c </dev/null)"
is "arguments arrive as they are" "$(printf 'a b|*|\n|$x|')" \
	"$(cs exec "$me" -- sh -c 'printf "%s|" "$@"' - 'a b' '*' $'\n' '$x')"

# Through the guest's stdin, and back out of its stdout. Where the host emulates the guest's kernel, a
# copy of 1 MiB takes a second or more.
mib=100
if emulated; then
	mib=2
fi
mib=${EXEC_MIB:-$mib}
head -c $((mib << 20)) /dev/urandom >"$scratch/data"
want=$(sha256sum <"$scratch/data" | cut -d' ' -f1)
is "$mib MiB of input arrive whole" "$want" \
	"$(cs exec "$me" -- sha256sum <"$scratch/data" | cut -d' ' -f1)"
is "$((mib / 4)) MiB of output come back whole" "$(head -c $((mib / 4))M "$scratch/data" | sha256sum)" \
	"$(head -c $((mib / 4))M "$scratch/data" | cs exec "$me" -- cat | sha256sum)"
is "output that nobody takes any more ends the command" 0 \
	"$(cs exec "$me" -- yes 2>/dev/null | head -n 1 | grep -vc y)"

# Many at once, each with its own output.
for i in {1..20}; do
	cs exec "$me" -- sh -c "sleep 0.2; echo $i" >"$scratch/many.$i" 2>&1 &
done
wait
is "20 at once each get their own answer" "$(seq 20)" "$(cat "$scratch"/many.* | sort -n)"

# A signal to exec reaches the command.
cs exec "$me" -- sh -c 'trap "echo caught; exit 3" TERM; echo ready; while :; do sleep 0.1; done' \
	>"$scratch/signal" &
pid=$!
eventually 30 grep -q ready "$scratch/signal"
# $pid is the subshell of cs and its timeout, which hands the signal on.
pkill -TERM -P "$pid" || kill -TERM "$pid"
rc=0
wait "$pid" || rc=$?
claim "SIGTERM to exec reaches the command" grep -q caught "$scratch/signal"

claim "ping is answered" cs ping "$me"
now=$(date +%s)
clock=$(cs exec "$me" -- date +%s)
claim "the guest's clock is right to 3 seconds (host $now, guest $clock)" \
	test $((clock - now)) -ge -3 -a $((clock - now)) -le 3

# The agent is PID 1: orphans must not pile up as zombies, and a crash harms nobody else.
cs exec "$me" -- sh -c 'for i in 1 2 3 4 5; do (sleep 0.1 &) ; done'
cs exec "$me" -- sh -c 'kill -SEGV $$' || true
eventually 30 cs exec "$me" -- sh -c '! ps -o stat | grep -q Z'
is "no zombie stays, and a crashed child does no harm" alive \
	"$(cs exec "$me" -- sh -c 'ps -o stat | grep Z || echo alive')"
finish

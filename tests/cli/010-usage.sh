#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Usage errors: status 2, words on stderr, nothing on stdout, and nothing done.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

fails 2 'Usage:'
fails 2 "did you mean 'spawn'" spwan debian
fails 2 "did you mean 'list'" lst
fails 2 "see clearstore help" xyzzy
fails 2 "did you mean 'list'" template lisst
fails 2 'Usage: clearstore template' template
fails 2 "unrecognized option '--frobnicate'" --frobnicate list
fails 2 "option '--store' requires an argument" --store
fails 2 'no folder given' --store= list

cs help --list
mapfile -t commands < <(grep -v ' --' "$scratch/out")
for command in "${commands[@]}"; do
	read -ra words <<<"$command"
	fails 2 "unrecognized option '--frobnicate'" "${words[@]}" --frobnicate
done

for command in spawn run; do fails 2 'no template given' $command; done
fails 2 'no command given' run debian
fails 2 'no command given' run debian --
fails 2 'no guest given' exec
fails 2 'no command given' exec web
for command in show ping console logs stop kill start restart pause resume remove; do
	fails 2 'no guest given' $command
done
for command in show ping console logs; do fails 2 'one guest only' $command web other; done
for command in stop kill start restart pause resume remove; do
	fails 2 'do not go together' $command --all web
done
for command in list doctor; do
	fails 2 'Too many arguments' $command web
done
fails 2 'no shell given' completion
fails 2 'only bash is known' completion fish
fails 1 "'frobnicate' is no command" help frobnicate
fails 1 "nothing more to say of 'web'" help list web

# What is no report has no --json behind it.
for command in stop console logs exec; do
	fails 2 "unrecognized option '--json'" $command --json web
done
finish

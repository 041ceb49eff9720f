#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Without a store every command that needs one says so and names the way out; where the store is
# comes from --store, before or behind the command, or from the environment.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

needs_store=('spawn debian' 'run debian -- true' 'list' 'show web' 'ping web' 'exec web -- true' 'console web'
	'logs web' 'stop web' 'kill web' 'start web' 'restart web' 'pause web' 'resume web' 'remove web'
	'stop --all' 'template list' 'template show debian' 'template verify debian'
	'template remove debian')
for command in "${needs_store[@]}"; do
	read -ra words <<<"$command"
	fails 1 'clearstore init' "${words[@]}"
done

fails 1 "'/nonexistent/clearstore-test'" list
fails 1 "'/nonexistent/front'" --store /nonexistent/front list
fails 1 "'/nonexistent/behind'" list --store /nonexistent/behind
fails 1 "'/nonexistent/behind'" --store /nonexistent/front list --store=/nonexistent/behind
CLEARSTORE_STORE='' fails 1 "" --store /nonexistent/front list

# A folder that is no store is not taken for one, and not touched.
mkdir "$scratch/folder"
fails 1 'clearstore init' --store "$scratch/folder" list
is "a folder that is no store stays empty" '' "$(ls -A "$scratch/folder")"
: >"$scratch/file"
cs --store "$scratch/file" list
is "a file is no store" 1 "$rc"
finish

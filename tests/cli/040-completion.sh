#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Completion for bash, as the program prints it.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

cs completion bash
is "it is printed" 0 "$rc"
cp "$scratch/out" "$scratch/completion"
claim "and is bash" bash -n "$scratch/completion"
if command -v shellcheck >/dev/null; then
	claim "without anything shellcheck minds" shellcheck -s bash "$scratch/completion"
fi
# shellcheck source=/dev/null
. "$scratch/completion"

# The words of the line up to the cursor, the last one half typed.
completes() {
	COMP_WORDS=("$program" "$@")
	COMP_CWORD=$#
	COMPREPLY=()
	_clearstore || true
	printf '%s\n' "${COMPREPLY[*]}"
}
is "a command" spawn "$(completes spaw)"
is "a group's member" 'add' "$(completes template ad)"
is "an option of all" --json "$(completes --js)"
is "an option" --memory "$(completes spawn debian --mem)"
is "no option behind --, that is the guest's command" '' "$(completes exec web -- --he)"
is "a command to help with" 'exec' "$(completes help ex)"
is "no word where any value goes" '' "$(completes spawn --name '')"
mkdir -p "$scratch/a-folder"
: >"$scratch/a-file"
is "a folder for --store" "$scratch/a-folder" "$(completes --store "$scratch/a-")"

# Names come from the program itself, asked with the same store.
mkdir "$scratch/bin"
cat >"$scratch/bin/clearstore" <<'END'
#!/bin/sh
case $* in
'--store /s list --quiet') echo web-1; echo web-2; echo db ;;
'--store /s template list --quiet') echo debian ;;
esac
END
chmod +x "$scratch/bin/clearstore"
program=$scratch/bin/clearstore
is "guests" 'web-1 web-2' "$(completes --store /s stop w)"
is "templates" debian "$(completes --store /s spawn '')"

# Every command and option is in it.
for word in $("${CLEARSTORE:-clearstore}" help --list | tr ' ' '\n' | sort -u); do
	claim "$word is in it" grep -q -e "[ ='\"(]$word\b" "$scratch/completion"
done
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Help: every command of the table has one, and every option is in it.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

says_version() {
	[[ $out =~ ^clearstore\ [0-9]+\.[0-9]+ ]]
}
cs --version
is "--version is a success" 0 "$rc"
claim "and says which" says_version

cs help --list
is "help --list is a success" 0 "$rc"
mapfile -t lines <<<"$out"
commands=() options=()
for line in "${lines[@]}"; do
	case $line in
	*' --'*) options+=("$line") ;;
	*) commands+=("$line") ;;
	esac
done
claim "there are commands (${#commands[@]})" test "${#commands[@]}" -gt 15
claim "and options (${#options[@]})" test "${#options[@]}" -gt 15

cs --help
is "--help is a success" 0 "$rc"
whole=$out
for same in "-h" "help"; do
	cs "$same"
	is "$same prints the same as --help" "$whole" "$out"
done
for command in "${commands[@]}"; do
	claim "--help lists ${command%% *}" has "$whole" "  ${command%% *} "
done

complete_help() {
	local command=$1 option

	[ "$rc" -eq 0 ] && [ -z "$err" ] && has "$out" "Usage: clearstore $command" || return 1
	for option in "${options[@]}"; do
		[ "${option%% --*}" != "$command" ] || has "$out" "--${option##* --}" || return 1
	done
}
for command in "${commands[@]}"; do
	read -ra words <<<"$command"
	cs "${words[@]}" --help
	claim "$command --help says all" complete_help "$command"
	cs "${words[@]}" -h
	claim "$command -h says all" complete_help "$command"
	cs help "${words[@]}"
	claim "help $command says all" complete_help "$command"
	claim "$command --help is no wider than 80 columns" test "$(wc -L <"$scratch/out")" -le 80
done

# A group of commands.
for group in $(printf '%s\n' "${commands[@]}" | sed -n 's/ .*//p' | sort -u); do
	for words in "$group --help" "help $group"; do
		# shellcheck disable=SC2086
		cs $words
		is "$words is a success" 0 "$rc"
		for command in "${commands[@]}"; do
			[ "${command%% *}" != "$group" ] ||
				claim "$words lists ${command#* }" has "$out" "  ${command#* } "
		done
	done
done
finish

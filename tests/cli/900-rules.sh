#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The scripts that check the rules find what breaks them: a tree that breaks each rule once, and the
# same without that.
set -euo pipefail

top=${top_srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/clearstore-rules.XXXXXX")
trap 'rm -rf --one-file-system "$scratch"' EXIT
failed=0
mkdir -p "$scratch"/{scripts,store/base,vmm,cow,tests}
cp "$top"/scripts/{common.sh,check-layers,check-style.awk} "$scratch/scripts/"
cd "$scratch"

spdx='/* SPDX-License-Identifier: LGPL-2.1-or-later */'

# breaks WORDS FILE WANTED: FILE, read from stdin, breaks a rule, and is told so by a line with WANTED.
breaks() {
	local out

	mkdir -p "$(dirname "$2")"
	cat >"$2"
	out=$(look) && out="nothing found. $out"
	rm "$2"
	if grep -qE -- "$3" <<<"$out"; then
		echo "ok: $1"
	else
		printf 'NOT OK: %s\n%s\n' "$1" "$out"
		failed=1
	fi
}

# keeps WORDS FILE: FILE, read from stdin, breaks none.
keeps() {
	local out

	cat >"$2"
	if out=$(look); then
		echo "ok: $1"
	else
		printf 'NOT OK: %s\n%s\n' "$1" "$out"
		failed=1
	fi
	rm "$2"
}

look() {
	local rc=0

	mapfile -t files < <(find store vmm cow tests -name '*.[ch]')
	awk -v file_max=600 -v function_max=60 -v arguments_max=5 -f scripts/check-style.awk "${files[@]}" || rc=1
	bash scripts/check-layers 2>&1 || rc=1
	return "$rc"
}

lines() {
	for ((i = 0; i < $1; i++)); do printf '\tx++;\n'; done
}

keeps "a function of 60 lines, five arguments, ret and err" store/a.c <<END
$spdx
#include "store/b.h"

int cs_a_b(int a, int b, int c, int d, int e, int *ret, struct cs_err *err)
{
$(lines 60)
}
END
breaks "a function of 61 lines" store/a.c 'store/a.c:4: a function of 61 lines' <<END
$spdx

int cs_a_b(void)
{
$(lines 61)
}
END
breaks "a file of 601 lines" store/a.c 'file has 601 lines' <<<"$spdx
$(printf '//\n%.0s' {1..600})"
breaks "six arguments, over two lines" vmm/a.c 'a function of 6 arguments' <<END
$spdx
int cs_a_b(int a, int b, int c,
	   int (*d)(int, int), int e, int f)
{
}
END
breaks "no SPDX line" store/a.h 'SPDX' <<<'#pragma once'
breaks "a header without its guard" store/a.h 'pragma once' <<<"$spdx"
for call in 'sprintf(a, b)' 'strcpy(a, b)' 'strtol(a, b, 10)' 'usleep(1)' 'system(a)' 'pipe(fds)' 'dup(1)'; do
	breaks "$call" store/a.c 'is not used here' <<<"$spdx
	x = $call;"
done
for call in 'printf("a")' 'exit(1)' 'perror("a")' 'abort()' 'err(1, "a")' 'fprintf(stderr, "a")'; do
	breaks "$call in a library" store/a.c 'a library does not' <<<"$spdx
	$call;"
	keeps "$call in a command" vmm/cmd-a.c <<<"$spdx
	$call;"
done
for call in 'open(a, O_RDONLY)' 'socket(AF_UNIX, SOCK_STREAM, 0)' 'eventfd(0, 0)' 'memfd_create("a", 0)' 'fopen(a, "r")'; do
	breaks "$call without close-on-exec" store/a.c 'CLOEXEC' <<<"$spdx
	x = $call;"
done
keeps "descriptors with close-on-exec, also over two lines" store/a.c <<END
$spdx
	a = openat(dirfd, name,
		   O_RDONLY | O_CLOEXEC);
	b = fopen(a, "re");
	c = ops->open(x);
	d = cs_store_open(x);
END
keeps "words in comments and strings" store/a.c <<END
$spdx
/* we do not call sprintf(a, b),
 * nor exit(1) */
	x = "exit(1) and strcpy(a, b)"; // atoi(c)
	cs_exit(1);
	a->exit(1);
END
breaks "store/base includes store" store/base/a.c 'store/base/a.c' <<<"$spdx
#include \"store/store.h\""
breaks "store includes cow" store/a.c 'store/a.c' <<<"$spdx
#include \"cow/card.h\""
breaks "vmm includes store" vmm/a.c 'vmm/a.c' <<<"$spdx
#include \"store/store.h\""
breaks "vmm includes the agent's own headers" vmm/a.c 'vmm/a.c' <<<"$spdx
#include \"vmm/guest/agent/agent.h\""
keeps "vmm includes the wire format" vmm/a.c <<<"$spdx
#include \"vmm/guest/agent/wire.h\""
keeps "a command includes everything" vmm/cmd-a.c <<<"$spdx
#include \"cow/card.h\"
#include \"ksm/meter.h\"
#include \"store/store.h\""
breaks "a foreign library outside its owner" cow/a.c 'btrfsutil.h belongs to' <<<"$spdx
#include <btrfsutil.h>"
keeps "a foreign library in its owner" store/subvol.c <<<"$spdx
#include <btrfsutil.h>"
exit "$failed"

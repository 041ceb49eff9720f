# SPDX-License-Identifier: LGPL-2.1-or-later
# Rules of form that a line-by-line look at C code can tell. The code is clang-formatted: so the body
# of a function begins at a "{" in column 0 and ends at a "}" in column 0. One finding a line; exit 1.
# Variables: file_max, function_max, arguments_max.

function finding(line, words)
{
	printf "%s:%d: %s\n", file, line, words
	found = 1
}

# (text) without comments and without what stands in quotes; follows comments over lines.
function bare(text,    out, c, two)
{
	out = ""
	while (text != "") {
		if (in_comment) {
			c = index(text, "*/")
			if (!c)
				return out
			text = substr(text, c + 2)
			in_comment = 0
			continue
		}
		two = substr(text, 1, 2)
		c = substr(text, 1, 1)
		if (two == "/*") {
			in_comment = 1
			text = substr(text, 3)
		} else if (two == "//") {
			return out
		} else if (match(text, /^"([^"\\]|\\.)*"/) || match(text, /^'([^'\\]|\\.)*'/)) {
			# The mode of fopen() is the one text that a rule looks at.
			out = out (substr(text, 1, RLENGTH) ~ /^"[rwa]\+?e"$/ ? "\"e\"" : "\"\"")
			text = substr(text, RLENGTH + 1)
		} else {
			out = out c
			text = substr(text, 2)
		}
	}
	return out
}

# Does (code) call (name)? Not as a member, not as the end of a longer name.
function calls(code, name)
{
	return code ~ "(^|[^A-Za-z0-9_>.])" name "\\("
}

# The commas that separate the parameters in "int f(int a, void (*b)(int, int))".
function parameters(text,    i, c, depth, n, some)
{
	n = depth = some = 0
	for (i = index(text, "("); i && i <= length(text); i++) {
		c = substr(text, i, 1)
		if (c == "(")
			depth++
		else if (c == ")" && --depth == 0)
			break
		else if (c == "," && depth == 1)
			n++
		else if (c != " " && c != "\t")
			some = 1
	}
	return some ? n + 1 : 0
}

function end_of_file()
{
	if (file ~ /\.h$/ && !once)
		finding(1, "a header without #pragma once")
	if (last_line > file_max)
		finding(last_line, "file has " last_line " lines, the limit is " file_max)
}

FNR == 1 {
	if (NR > 1)
		end_of_file()
	file = FILENAME
	in_comment = 0
	head = call = ""
	body = 0
	library = FILENAME !~ /(^|\/)(cmd-[a-z0-9-]*\.c|main\.c)$/ && FILENAME !~ /^tests\//
	# The agent is a program of its own: it has a main(), and the console is its own.
	library = library && FILENAME !~ /^vmm\/(guest\/|make-filter\.c)/
	if ($0 !~ /SPDX-License-Identifier: (LGPL-2\.1-or-later|GPL-2\.0)/)
		finding(1, "the first line is not the SPDX line")
	once = 0
}

{
	last_line = FNR
	code = bare($0)
}

code ~ /^#pragma once/ {
	once = 1
}

# ---- length of functions, number of parameters
code == "{" {
	body = FNR
	# Where the result and the error go is not counted.
	n = parameters(head) - (head ~ /struct cs_err \*/) - (head ~ /\*ret[a-z_]*[,)]/)
	if (n > arguments_max)
		finding(FNR, "a function of " n " arguments, the limit is " arguments_max)
}
/^}/ {
	if (body && FNR - body - 1 > function_max)
		finding(body, "a function of " (FNR - body - 1) " lines, the limit is " function_max)
	body = 0
	head = ""
}
!body && code != "{" {
	head = code ~ /[;}]$/ || code ~ /^#/ || code == "" ? "" : head " " code
}

# ---- calls
{
	n = split("sprintf vsprintf strcpy strcat strncpy stpcpy atoi atol atoll strtol strtoul strtoll " \
		  "strtoull usleep gets alloca system popen tmpnam mktemp pipe accept creat dup vfork", never)
	for (i = 1; i <= n; i++)
		if (calls(code, never[i]) && !(FILENAME == "store/base/num.c" && never[i] ~ /^strto/) &&
		    !(FILENAME == "vmm/guest/agent/spawn.c" && never[i] == "vfork") &&
		    FILENAME !~ /^tests\//)
			finding(FNR, never[i] "() is not used here")
}
library {
	n = split("printf vprintf puts putchar perror exit abort err errx warn warnx verr verrx", quiet)
	for (i = 1; i <= n; i++)
		if (calls(code, quiet[i]))
			finding(FNR, "a library does not call " quiet[i] "()")
	if (code ~ /(fprintf|fputs|fputc|fwrite|dprintf)\((.*, *)?(stderr|stdout|STDERR_FILENO|STDOUT_FILENO)/ &&
	    FILENAME != "store/base/progress.c")
		finding(FNR, "a library does not print")
}

# ---- descriptors: gathered up to the end of the statement, since a call may go over lines
call == "" && code ~ /(^|[^A-Za-z0-9_>.])(open|openat|openat2|open64|socket|socketpair|eventfd|memfd_create|accept4|epoll_create1|timerfd_create|signalfd|pipe2|inotify_init1|fanotify_init|mkostemp|dup3|fopen|pidfd_getfd)\(/ && code !~ /^#/ {
	call_line = FNR
	call = " "
	# What a child is to have as its standard input must survive, and its comment says so.
	if (index($0, "stays open over exec"))
		call = "CLOEXEC"
}
call != "" {
	call = call code
	if (code ~ /[;{}]$/) {
		if (call !~ /CLOEXEC|"e"/)
			finding(call_line, "a descriptor is made without its CLOEXEC flag")
		call = ""
	}
}
code ~ /F_DUPFD[^_]/ {
	finding(FNR, "F_DUPFD_CLOEXEC, not F_DUPFD")
}
code ~ /(^|[^A-Za-z0-9_])(epoll_create|inotify_init|mkstemp)\(/ && FILENAME !~ /^tests\// {
	finding(FNR, "a descriptor is made without its CLOEXEC flag")
}

END {
	end_of_file()
	exit found
}

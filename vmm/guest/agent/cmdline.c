/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/guest/agent/cmdline.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n';
}

/* The next word of *at, which moves behind it; its length, 0: there is none. */
static size_t next_word(const char **at, const char **word)
{
	const char *p = *at;
	bool quoted = false;

	while (is_space(*p))
		p++;
	*word = p;
	for (; *p && (quoted || !is_space(*p)); p++)
		quoted ^= *p == '"';
	*at = p;
	return (size_t)(p - *word);
}

static char dash(char c)
{
	return c == '-' ? '_' : c;
}

/* (word) begins with (name), up to (stop). */
static bool begins(const char *word, size_t n, const char *name, size_t length, char stop)
{
	if (n <= length || word[length] != stop)
		return false;

	for (size_t i = 0; i < length; i++) {
		if (dash(word[i]) != dash(name[i]))
			return false;
	}

	return true;
}

char *cs_cmdline_value(const char *cmdline, const char *name)
{
	size_t length = strlen(name), n;
	char *value = NULL;
	const char *word;

	while ((n = next_word(&cmdline, &word))) {
		size_t used = 0;

		if (!begins(word, n, name, length, '='))
			continue;

		free(value);
		value = malloc(n);
		if (!value)
			return NULL;
		for (size_t i = length + 1; i < n; i++) {
			if (word[i] != '"')
				value[used++] = word[i];
		}
		value[used] = 0;
	}

	return value;
}

char *cs_cmdline_module(const char *cmdline, const char *file)
{
	size_t length = strcspn(file, "."), n, used = 0;
	char *all = malloc(strlen(cmdline) + 1);
	const char *word;

	if (!all)
		return NULL;

	while ((n = next_word(&cmdline, &word))) {
		if (!begins(word, n, file, length, '.'))
			continue;

		if (used)
			all[used++] = ' ';
		memcpy(all + used, word + length + 1, n - length - 1);
		used += n - length - 1;
	}

	all[used] = 0;
	return all;
}

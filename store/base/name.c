/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/name.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_legal(const char *name)
{
	size_t length = strnlen(name, CS_NAME_MAX + 1);

	if (!length || length > CS_NAME_MAX)
		return false;
	for (size_t i = 0; i < length; i++) {
		if (!is_alnum(name[i]) && !strchr("-._", name[i]))
			return false;
	}
	return is_alnum(name[0]) && is_alnum(name[length - 1]) && !strstr(name, "..");
}

int cs_name_check(const char *what, const char *name, struct cs_err *err)
{
	char shown[32 + 4];
	size_t n;

	if (is_legal(name))
		return 0;

	for (n = 0; n < 32 && name[n]; n++)
		shown[n] = name[n] >= ' ' && name[n] <= '~' ? name[n] : '?';
	snprintf(shown + n, sizeof(shown) - n, "%s", name[n] ? "..." : "");
	return cs_fail(err, EINVAL,
		       "%s name '%s': not a legal name (1 to %d of a-z 0-9 - . _, a letter or "
		       "digit first and last)",
		       what, shown, CS_NAME_MAX);
}

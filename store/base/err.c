/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void record(struct cs_err *err, int code, const char *fmt, va_list ap)
{
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
}

int cs_fail(struct cs_err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (code <= 0)
		code = code < 0 ? -code : EIO;
	if (err) {
		va_start(ap, fmt);
		record(err, code, fmt, ap);
		va_end(ap);
	}
	return -code;
}

int cs_fail_errno(struct cs_err *err, int code, const char *fmt, ...)
{
	va_list ap;
	size_t used;

	if (code <= 0)
		code = code < 0 ? -code : EIO;
	if (err) {
		va_start(ap, fmt);
		record(err, code, fmt, ap);
		va_end(ap);
		used = strlen(err->text);
		snprintf(err->text + used, sizeof(err->text) - used, ": %s",
			 strerrordesc_np(code) ?: "unknown error");
	}
	return -code;
}

int cs_fail_in(struct cs_err *err, int rc, const char *fmt, ...)
{
	char inner[sizeof(err->text)];
	va_list ap;
	size_t used;

	if (!err)
		return rc;

	memcpy(inner, err->text, sizeof(inner));
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	used = strlen(err->text);
	snprintf(err->text + used, sizeof(err->text) - used, ": %s", inner);
	return rc;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One way to fail: a library function returns -errno and, where it touches the outside, fills a
 * struct cs_err with words. Only commands print them. */
#pragma once

struct cs_err {
	int code;       /* positive errno; 0: nothing recorded */
	char text[480]; /* thing, cause, way out; no newline, no trailing full stop */
};

/* Record a failure and return -(code). (text) is formatted; the words of strerror(code) are not
 * appended: use cs_fail_errno() for that. (err) may be NULL. (code) 0 counts as EIO, so that a
 * failure can never look like success.
 *	return cs_fail(err, EINVAL, "memory '%s': not a size (try 128M)", text); */
int cs_fail(struct cs_err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4), cold));

/* As cs_fail(), and ": " and the words of strerror(code) are appended.
 *	return cs_fail_errno(err, errno, "cannot open '%s'", path); */
int cs_fail_errno(struct cs_err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4), cold));

/* Put context in front of a failure already recorded ("template 'web': ..."); returns (rc). */
int cs_fail_in(struct cs_err *err, int rc, const char *fmt, ...)
	__attribute__((format(printf, 3, 4), cold));

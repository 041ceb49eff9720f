/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Legal names of templates and guests: they become folder names, host names and table cells. */
#pragma once

#include "store/base/err.h"

#define CS_NAME_MAX 63 /* RFC 1123: one label of a host name */

/* (what) is "template" or "guest". 1 to 63 of [a-z0-9-._], the first and last a letter or digit, no
 * ".."; so no '/', no dot name, nothing a shell or a terminal would trip over. -EINVAL with words,
 * in which an over-long or unprintable (name) is shortened and escaped. */
int cs_name_check(const char *what, const char *name, struct cs_err *err);

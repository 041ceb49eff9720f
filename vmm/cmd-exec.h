/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What exec and run share. Only commands include it. */
#pragma once

#include <stdbool.h>

#include "store/base/err.h"

/* With (tty), our input must be a terminal: -ENOTTY with words. */
int cs_cmd_tty_check(bool tty, struct cs_err *err);

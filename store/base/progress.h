/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A progress bar on stderr for long work, on a terminal only. */
#pragma once

#include <stdint.h>

#include "store/base/own.h"

struct cs_progress;

/* (what): "import root.tar". (total_bytes) 0: unknown, then bytes and rate are shown without a bar.
 * Never fails: NULL on no terminal or no memory, and every call takes NULL. */
struct cs_progress *cs_progress_open(const char *what, uint64_t total_bytes);

/* (bytes) done so far. Draws at most ten times a second: bar, bytes, MB/s (10^6), time left. */
void cs_progress_set(struct cs_progress *progress, uint64_t bytes);

/* Change what is shown as being done ("hashing"). */
void cs_progress_step(struct cs_progress *progress, const char *what);

/* Erase the bar. Returns NULL. */
struct cs_progress *cs_progress_free(struct cs_progress *progress);
CS_DEFINE_AUTO(cs_progress);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a tuner saw and did, as CSV: a line of names, then a line a decision. Columns are the
 * members of a sample by their names, and those of the setting with "set_" in front; an empty cell
 * is not known. A reader takes the columns in any order, and does without those that are missing.
 */
#pragma once

#include <stddef.h>

#include "ksm/ksm.h"

struct cs_ksm_row {
	struct cs_ksm_sample seen;
	struct cs_ksm_setting set;
};

struct cs_ksm_trace {
	struct cs_ksm_row *row; /* ascending by seen.at_ms */
	size_t n;
};

/* The line of names, or of (row), its newline included, into (text); -ENOBUFS. */
#define CS_KSM_TRACE_LINE 1024
int cs_ksm_trace_head(char text[CS_KSM_TRACE_LINE]);
int cs_ksm_trace_line(const struct cs_ksm_row *row, char text[CS_KSM_TRACE_LINE]);

/* -EBADMSG with the line: a cell is no number, a line has too many or too few, time runs backwards;
 * -EINVAL: no column at_ms, or nothing in it. A last line without its end was cut off by a crash,
 * and is left out. (text) is written into. *ret is to be freed by cs_ksm_trace_clear(). */
int cs_ksm_trace_parse(char *text, struct cs_ksm_trace *ret, struct cs_err *err);
int cs_ksm_trace_read(const char *path, struct cs_ksm_trace *ret, struct cs_err *err);
void cs_ksm_trace_clear(struct cs_ksm_trace *trace);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One description, two forms: a table for people (libsmartcols), JSON for programs (jansson).
 * Only commands use it; the text is handed back as a string, so that nothing here prints. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

enum cs_cell {
	CS_CELL_TEXT,
	CS_CELL_COUNT,   /* an unsigned number */
	CS_CELL_BYTES,   /* table: 38.3 MiB; JSON: the number */
	CS_CELL_MS,      /* table: 12 ms, 3.4 s; JSON: the number */
	CS_CELL_TIME,    /* seconds since 1970; table: local date and time; JSON: the number */
	CS_CELL_BOOL,    /* table: yes, no; JSON: true, false */
	CS_CELL_PERCENT, /* a double; table: 0.03 % */
};

struct cs_column {
	const char *key;   /* of the JSON member: "ram_bytes" */
	const char *title; /* of the table column: "MEMORY" */
	enum cs_cell cell;
};

struct cs_report;

/* (columns) must outlive the report. */
int cs_report_open(const struct cs_column *columns, size_t n, struct cs_report **ret,
		   struct cs_err *err);

/* The table has column (key) only if a row has it; JSON always. */
void cs_report_elide(struct cs_report *report, const char *key);

/* Start a row; cells not set are "-" in the table and null in JSON. Errors stick and come back from
 * cs_report_format(). */
void cs_report_row(struct cs_report *report);
void cs_report_text(struct cs_report *report, const char *key,
		    const char *text); /* NULL: not set */
void cs_report_number(struct cs_report *report, const char *key,
		      uint64_t value); /* COUNT BYTES MS TIME BOOL */
void cs_report_real(struct cs_report *report, const char *key, double value); /* PERCENT MS */

enum cs_format {
	CS_FORMAT_TABLE,  /* a row a line under titles; nothing at all when there are no rows */
	CS_FORMAT_RECORD, /* first row only, a "title: value" line per cell: for `show` */
	CS_FORMAT_JSON,   /* an array of objects */
	CS_FORMAT_JSON_RECORD, /* first row only, one object */
};

/* The text, newline at its end, in *ret, which the caller frees. */
int cs_report_format(const struct cs_report *report, enum cs_format format, char **ret,
		     struct cs_err *err);

struct cs_report *cs_report_free(struct cs_report *report);

static inline void cs_report_freep(struct cs_report **report)
{
	*report = cs_report_free(*report);
}

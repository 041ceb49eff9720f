/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A table of guests that is looked at for long: who is in it, in which order, how a line reads, and
 * whose turn it is to be read, since reading one is not cheap. No clock, no files, no terminal. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "ksm/meter.h"
#include "store/base/own.h"

enum cs_top_column {
	CS_TOP_NAME,
	CS_TOP_CPU,
	CS_TOP_COST,
	CS_TOP_PRIVATE,
	CS_TOP_MERGED,
	CS_TOP_ZERO,
	CS_TOP_SHARED,
	CS_TOP_TABLES,
	CS_TOP_COLUMNS,
};
const char *cs_top_title(enum cs_top_column column);
/* By its first letter, in either case; CS_TOP_COLUMNS: none has it. */
enum cs_top_column cs_top_column_of(int letter);
/* By that letter, or by the title ("cpu" will do for the one of CPU time). CS_TOP_COLUMNS: none. */
enum cs_top_column cs_top_column_named(const char *word);

struct cs_top_row {
	char name[64];
	pid_t pid;
	struct cs_meter_guest guest; /* as last read */
	int64_t metered_ms;          /* when that was; 0: never */
	uint64_t cpu_ms;             /* CPU time, as last read */
	int64_t cpu_read_ms;         /* when that was; 0: never */
	double cpu_percent;          /* of a core, between the last two times */
	bool seen;                   /* cs_top_begin() to cs_top_end() */
};

#define CS_TOP_HISTORY 240

struct cs_top {
	struct cs_top_row *row; /* in the order of (by), after cs_top_sort() */
	size_t n, room;
	enum cs_top_column by;
	bool reverse;                     /* smallest first; of names, Z first */
	uint64_t history[CS_TOP_HISTORY]; /* a figure a look, the latest last */
	size_t looks;                     /* of them */
};

/* A round of looking who is there: those not named between begin and end are gone. */
void cs_top_begin(struct cs_top *top);
/* NULL: it is not there yet. */
struct cs_top_row *cs_top_find(struct cs_top *top, pid_t pid, const char *name);
struct cs_top_row *cs_top_add(struct cs_top *top, pid_t pid,
			      const char *name); /* NULL: no memory */
void cs_top_end(struct cs_top *top);

void cs_top_sort(struct cs_top *top);

/* What was read of a row at (at_ms). */
void cs_top_cpu(struct cs_top_row *row, uint64_t cpu_ms, int64_t at_ms);
void cs_top_meter(struct cs_top_row *row, const struct cs_meter_guest *guest, int64_t at_ms);

/* The one that waits longest to be metered: of rows (first) to (first + shown) those that wait for
 * more than (stale_ms), since they are looked at, then of all. NULL: all are fresher than that. */
struct cs_top_row *cs_top_due(struct cs_top *top, size_t first, size_t shown, int64_t at_ms,
			      int64_t stale_ms);

struct cs_meter_guest cs_top_sum(const struct cs_top *top, double *ret_cpu_percent);

void cs_top_remember(struct cs_top *top, uint64_t value);
/* The last (width) of what is remembered as a line of signs from low to high, (text) with room for
 * (width) and a NUL; blanks in front of the first. */
void cs_top_history(const struct cs_top *top, size_t width, char *text);

/* The line of titles, or of a row, (width) characters and a NUL into (text); what does not fit is
 * left out, columns from the right. *ret_from, *ret_to (may be NULL): where the title of (by)
 * stands. */
void cs_top_head(const struct cs_top *top, size_t width, char *text, size_t *ret_from,
		 size_t *ret_to);
void cs_top_line(const struct cs_top_row *row, size_t width, char *text);

void cs_top_clear(struct cs_top *top);

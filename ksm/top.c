/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/top.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "store/base/num.h"

#define NAME_WIDTH 17 /* at least; what is left of the line goes to the name */
#define CELL_WIDTH 9

static const struct {
	const char *title;
	size_t offset; /* of the uint64_t in struct cs_meter_guest */
} columns[CS_TOP_COLUMNS] = {
	[CS_TOP_NAME] = { "NAME", 0 },
	[CS_TOP_CPU] = { "U CPU%", 0 },
	[CS_TOP_COST] = { "COST", offsetof(struct cs_meter_guest, cost_bytes) },
	[CS_TOP_PRIVATE] = { "PRIVATE", offsetof(struct cs_meter_guest, private_bytes) },
	[CS_TOP_MERGED] = { "MERGED", offsetof(struct cs_meter_guest, merged_bytes) },
	[CS_TOP_ZERO] = { "ZERO", offsetof(struct cs_meter_guest, zero_bytes) },
	[CS_TOP_SHARED] = { "SHARED", offsetof(struct cs_meter_guest, shared_bytes) },
	[CS_TOP_TABLES] = { "TABLES", offsetof(struct cs_meter_guest, page_table_bytes) },
};

const char *cs_top_title(enum cs_top_column column)
{
	return columns[column].title;
}

enum cs_top_column cs_top_column_of(int letter)
{
	for (enum cs_top_column c = CS_TOP_NAME; c < CS_TOP_COLUMNS; c++) {
		if (toupper(letter) == columns[c].title[0])
			return c;
	}
	return CS_TOP_COLUMNS;
}

enum cs_top_column cs_top_column_named(const char *word)
{
	if (word[0] && !word[1])
		return cs_top_column_of(word[0]);
	for (enum cs_top_column c = CS_TOP_NAME; c < CS_TOP_COLUMNS; c++) {
		if (strcasecmp(word, columns[c].title) == 0)
			return c;
	}
	return strcasecmp(word, "cpu") == 0 ? CS_TOP_CPU : CS_TOP_COLUMNS;
}

static uint64_t bytes_of(const struct cs_top_row *row, enum cs_top_column column)
{
	uint64_t bytes;

	memcpy(&bytes, (const char *)&row->guest + columns[column].offset, sizeof(bytes));
	return bytes;
}

/* ---- who is there -------------------------------------------------------------------------- */

void cs_top_begin(struct cs_top *top)
{
	for (size_t i = 0; i < top->n; i++)
		top->row[i].seen = false;
}

struct cs_top_row *cs_top_find(struct cs_top *top, pid_t pid, const char *name)
{
	for (size_t i = 0; i < top->n; i++) {
		if (top->row[i].pid == pid && strcmp(top->row[i].name, name) == 0)
			return &top->row[i];
	}
	return NULL;
}

struct cs_top_row *cs_top_add(struct cs_top *top, pid_t pid, const char *name)
{
	struct cs_top_row *row;

	if (top->n == top->room) {
		const size_t room = top->room ? 2 * top->room : 64;
		void *more = reallocarray(top->row, room, sizeof(*top->row));

		if (!more)
			return NULL;
		top->row = more;
		top->room = room;
	}
	row = &top->row[top->n++];
	*row = (struct cs_top_row){ .pid = pid, .seen = true };
	snprintf(row->name, sizeof(row->name), "%s", name);
	return row;
}

void cs_top_end(struct cs_top *top)
{
	size_t kept = 0;

	for (size_t i = 0; i < top->n; i++) {
		if (top->row[i].seen)
			top->row[kept++] = top->row[i];
	}
	top->n = kept;
}

void cs_top_clear(struct cs_top *top)
{
	free(top->row);
	*top = (struct cs_top){ .n = 0 };
}

/* ---- order --------------------------------------------------------------------------------- */

/* web-2 before web-10. */
static int by_name(const struct cs_top_row *a, const struct cs_top_row *b)
{
	return strverscmp(a->name, b->name);
}

static int compare(const void *x, const void *y, void *arg)
{
	const struct cs_top_row *a = x, *b = y;
	const struct cs_top *top = arg;
	int order = 0;

	if (top->by == CS_TOP_CPU) {
		order = (a->cpu_percent < b->cpu_percent) - (a->cpu_percent > b->cpu_percent);
	} else if (top->by != CS_TOP_NAME) {
		const uint64_t one = bytes_of(a, top->by), other = bytes_of(b, top->by);

		order = (one < other) - (one > other);
	}
	if (order == 0)
		order = by_name(a, b);
	return top->reverse ? -order : order;
}

void cs_top_sort(struct cs_top *top)
{
	if (top->n)
		qsort_r(top->row, top->n, sizeof(*top->row), compare, top);
}

/* ---- what was read ------------------------------------------------------------------------- */

void cs_top_cpu(struct cs_top_row *row, uint64_t cpu_ms, int64_t at_ms)
{
	const int64_t ms = at_ms - row->cpu_read_ms;

	if (row->cpu_read_ms && ms > 0 && cpu_ms >= row->cpu_ms)
		row->cpu_percent = 100 * (double)(cpu_ms - row->cpu_ms) / (double)ms;
	row->cpu_ms = cpu_ms;
	row->cpu_read_ms = at_ms;
}

void cs_top_meter(struct cs_top_row *row, const struct cs_meter_guest *guest, int64_t at_ms)
{
	row->guest = *guest;
	row->metered_ms = at_ms;
}

static struct cs_top_row *oldest(struct cs_top *top, size_t from, size_t to, int64_t before_ms)
{
	struct cs_top_row *found = NULL;

	for (size_t i = from; i < to && i < top->n; i++) {
		struct cs_top_row *row = &top->row[i];

		if (row->metered_ms && row->metered_ms > before_ms)
			continue;
		if (!found || row->metered_ms < found->metered_ms)
			found = row;
	}
	return found;
}

struct cs_top_row *cs_top_due(struct cs_top *top, size_t first, size_t shown, int64_t at_ms,
			      int64_t stale_ms)
{
	struct cs_top_row *row = oldest(top, first, first + shown, at_ms - stale_ms);

	return row ? row : oldest(top, 0, top->n, at_ms - stale_ms);
}

struct cs_meter_guest cs_top_sum(const struct cs_top *top, double *ret_cpu_percent)
{
	struct cs_meter_guest sum = { .cpu_ms = 0 };

	*ret_cpu_percent = 0;
	for (size_t i = 0; i < top->n; i++) {
		cs_meter_guest_add(&sum, &top->row[i].guest);
		*ret_cpu_percent += top->row[i].cpu_percent;
	}
	return sum;
}

/* ---- history ------------------------------------------------------------------------------- */

void cs_top_remember(struct cs_top *top, uint64_t value)
{
	if (top->looks == CS_TOP_HISTORY)
		memmove(top->history, top->history + 1, sizeof(top->history) - sizeof(value));
	else
		top->looks++;
	top->history[top->looks - 1] = value;
}

void cs_top_history(const struct cs_top *top, size_t width, char *text)
{
	static const char signs[] = "_.-=+*#@";
	const size_t n = top->looks < width ? top->looks : width;
	const uint64_t *last = top->history + (top->looks - n);
	uint64_t low = UINT64_MAX, high = 0;

	for (size_t i = 0; i < n; i++) {
		low = last[i] < low ? last[i] : low;
		high = last[i] > high ? last[i] : high;
	}
	memset(text, ' ', width - n);
	for (size_t i = 0; i < n; i++) {
		const double part = high > low ? (double)(last[i] - low) / (double)(high - low) : 0;

		text[width - n + i] = signs[(size_t)(part * (sizeof(signs) - 2) + 0.5)];
	}
	text[width] = '\0';
}

/* ---- lines --------------------------------------------------------------------------------- */

/* Columns behind the name that fit, and what that leaves to the name. */
static size_t fit(size_t width, size_t *ret_name)
{
	size_t n = CS_TOP_COLUMNS - 1;

	while (n && NAME_WIDTH + n * CELL_WIDTH > width)
		n--;
	*ret_name = width > n * CELL_WIDTH ? width - n * CELL_WIDTH : 0;
	return n;
}

/* Six characters: "1023K", "38.3M", "1.2G". */
static void format_cell(uint64_t bytes, char text[CELL_WIDTH])
{
	static const char units[] = "KMGTPE";
	double value = (double)bytes / 1024;
	size_t unit = 0;

	while (value >= 1000 && units[unit + 1]) {
		value /= 1024;
		unit++;
	}
	snprintf(text, CELL_WIDTH, value < 100 && unit ? "%.1f%c" : "%.0f%c", value, units[unit]);
}

void cs_top_head(const struct cs_top *top, size_t width, char *text, size_t *ret_from,
		 size_t *ret_to)
{
	size_t name, n = fit(width, &name), used;

	used = (size_t)snprintf(text, width + 1, "%-*.*s", (int)name, (int)name,
				columns[CS_TOP_NAME].title);
	for (size_t c = 1; c <= n; c++)
		used += (size_t)snprintf(text + used, width + 1 - used, "%*s", CELL_WIDTH,
					 columns[c].title);
	if (!ret_from)
		return;
	*ret_from = *ret_to = 0;
	if (top->by == CS_TOP_NAME) {
		*ret_to = name < strlen(columns[CS_TOP_NAME].title)
				  ? name
				  : strlen(columns[CS_TOP_NAME].title);
	} else if (top->by <= n) {
		*ret_to = name + top->by * CELL_WIDTH;
		*ret_from = *ret_to - strlen(columns[top->by].title);
	}
}

void cs_top_line(const struct cs_top_row *row, size_t width, char *text)
{
	size_t name, n = fit(width, &name), used;
	char cell[24];

	used = (size_t)snprintf(text, width + 1, "%-*.*s", (int)name, (int)name, row->name);
	for (size_t c = 1; c <= n; c++) {
		if (c == CS_TOP_CPU && !row->cpu_read_ms)
			snprintf(cell, sizeof(cell), "-");
		else if (c == CS_TOP_CPU)
			snprintf(cell, sizeof(cell), "%.1f", row->cpu_percent);
		else if (!row->metered_ms)
			snprintf(cell, sizeof(cell), "-");
		else
			format_cell(bytes_of(row, c), cell);
		used += (size_t)snprintf(text + used, width + 1 - used, "%*s", CELL_WIDTH, cell);
	}
}

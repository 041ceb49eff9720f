/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/io.h"
#include "store/base/num.h"

#define COLUMNS   64
#define SET       "set_"
#define TRACE_MAX (256 * CS_MIB)

/* ---- writing ------------------------------------------------------------------------------- */

/* Append to (text), of which (used) bytes are taken: the new number; past the end, it stays there.
 */
static size_t put(char *text, size_t used, const char *what, const char *more)
{
	const int n = used < CS_KSM_TRACE_LINE
			      ? snprintf(text + used, CS_KSM_TRACE_LINE - used, "%s%s", what, more)
			      : 0;

	return n < 0 ? CS_KSM_TRACE_LINE : used + (size_t)n;
}

static size_t put_value(char *text, size_t used, int64_t value)
{
	char number[24] = "";

	if (value != CS_KSM_UNKNOWN)
		snprintf(number, sizeof(number), "%lld", (long long)value);
	return put(text, used, used ? "," : "", number);
}

int cs_ksm_trace_head(char text[CS_KSM_TRACE_LINE])
{
	size_t n, m, used = 0;
	const struct cs_ksm_field *seen = cs_ksm_sample_fields(&n);
	const struct cs_ksm_field *set = cs_ksm_setting_fields(&m);

	for (size_t i = 0; i < n; i++)
		used = put(text, used, i ? "," : "", seen[i].name);
	for (size_t i = 0; i < m; i++)
		used = put(text, used, "," SET, set[i].name);
	used = put(text, used, "\n", "");
	return used < CS_KSM_TRACE_LINE ? 0 : -ENOBUFS;
}

int cs_ksm_trace_line(const struct cs_ksm_row *row, char text[CS_KSM_TRACE_LINE])
{
	size_t n, m, used = 0;
	const struct cs_ksm_field *seen = cs_ksm_sample_fields(&n);
	const struct cs_ksm_field *set = cs_ksm_setting_fields(&m);

	for (size_t i = 0; i < n; i++)
		used = put_value(text, used, cs_ksm_field_get(&row->seen, &seen[i]));
	for (size_t i = 0; i < m; i++)
		used = put_value(text, used, cs_ksm_field_get(&row->set, &set[i]));
	used = put(text, used, "\n", "");
	return used < CS_KSM_TRACE_LINE ? 0 : -ENOBUFS;
}

/* ---- reading ------------------------------------------------------------------------------- */

/* Where a column goes: in a struct cs_ksm_row; -1: nowhere. */
struct columns {
	long offset[COLUMNS];
	size_t n;
};

static long find_column(const char *name)
{
	const size_t prefix = strlen(SET);
	const bool set = strncmp(name, SET, prefix) == 0;
	size_t n;
	const struct cs_ksm_field *field =
		set ? cs_ksm_setting_fields(&n) : cs_ksm_sample_fields(&n);

	for (size_t i = 0; i < n; i++) {
		if (strcmp(field[i].name, set ? name + prefix : name) == 0)
			return (long)(field[i].offset + (set ? offsetof(struct cs_ksm_row, set)
							     : offsetof(struct cs_ksm_row, seen)));
	}
	return -1;
}

static int parse_head(char *line, struct columns *ret, struct cs_err *err)
{
	bool time = false;
	char *name;

	ret->n = 0;
	while ((name = strsep(&line, ",")) != NULL) {
		if (ret->n == COLUMNS)
			return cs_fail(err, EINVAL, "trace: more than %d columns", COLUMNS);
		ret->offset[ret->n] = find_column(name);
		time = time || strcmp(name, "at_ms") == 0;
		ret->n++;
	}
	return time ? 0 : cs_fail(err, EINVAL, "trace: the first line has no 'at_ms'");
}

static int parse_row(char *line, const struct columns *columns, struct cs_ksm_row *ret)
{
	size_t i = 0;
	char *cell;

	*ret = (struct cs_ksm_row){ cs_ksm_sample_unknown(), cs_ksm_setting_unknown() };
	for (; (cell = strsep(&line, ",")) != NULL; i++) {
		int64_t value;

		if (i == columns->n)
			return -EBADMSG;
		if (!*cell)
			continue;
		/* Nothing but a profit can be below zero. */
		if (cs_ksm_parse(cell,
				 columns->offset[i] ==
					 (long)offsetof(struct cs_ksm_row, seen.profit_bytes),
				 &value) < 0)
			return -EBADMSG;
		if (columns->offset[i] >= 0)
			memcpy((char *)ret + columns->offset[i], &value, sizeof(value));
	}
	return i == columns->n && ret->seen.at_ms >= 0 ? 0 : -EBADMSG;
}

static int add_row(struct cs_ksm_trace *trace, size_t *room, const struct cs_ksm_row *row)
{
	if (trace->n && row->seen.at_ms < trace->row[trace->n - 1].seen.at_ms)
		return -EBADMSG;
	if (trace->n == *room) {
		const size_t more = *room ? 2 * *room : 256;
		void *larger = reallocarray(trace->row, more, sizeof(*trace->row));

		if (!larger)
			return -ENOMEM;
		trace->row = larger;
		*room = more;
	}
	trace->row[trace->n++] = *row;
	return 0;
}

int cs_ksm_trace_parse(char *text, struct cs_ksm_trace *ret, struct cs_err *err)
{
	struct cs_ksm_trace trace = { .n = 0 };
	struct columns columns;
	size_t room = 0, number = 1;
	char *line, *end;
	int r = 0;

	line = text;
	end = strchr(line, '\n');
	if (!end)
		return cs_fail(err, EINVAL, "trace: it has no line of names");
	*end = '\0';
	r = parse_head(line, &columns, err);
	if (r < 0)
		return r;
	for (line = end + 1; (end = strchr(line, '\n')) != NULL && r == 0; line = end + 1) {
		struct cs_ksm_row row;

		*end = '\0';
		number++;
		r = parse_row(line, &columns, &row);
		if (r == 0)
			r = add_row(&trace, &room, &row);
	}
	if (r == 0 && !trace.n)
		r = -EINVAL;
	if (r < 0) {
		cs_ksm_trace_clear(&trace);
		if (r == -ENOMEM)
			return cs_fail_errno(err, ENOMEM, "trace");
		return cs_fail(err, -r,
			       r == -EINVAL ? "trace: it has no rows"
					    : "trace: line %zu is none that a tuner wrote",
			       number);
	}
	*ret = trace;
	return 0;
}

int cs_ksm_trace_read(const char *path, struct cs_ksm_trace *ret, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	int r;

	r = cs_read_file_at(AT_FDCWD, path, TRACE_MAX, &text, NULL);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot read '%s'", path);
	r = cs_ksm_trace_parse(text, ret, err);
	return r < 0 ? cs_fail_in(err, r, "'%s'", path) : 0;
}

void cs_ksm_trace_clear(struct cs_ksm_trace *trace)
{
	free(trace->row);
	*trace = (struct cs_ksm_trace){ .n = 0 };
}

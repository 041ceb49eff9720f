/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/report.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <libsmartcols/libsmartcols.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/base/library.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/text.h"

struct value {
	enum { VALUE_NONE, VALUE_TEXT, VALUE_NUMBER, VALUE_REAL } kind;
	char *text;
	uint64_t number;
	double real;
};

struct cs_report {
	const struct cs_column *columns;
	size_t n_columns;
	struct value *values; /* row by row */
	size_t n_rows, room;
	size_t elided; /* column that a table has only if a row has it; n_columns: none is so */
	int failure;   /* the first error, sticky; 0: none */
};

#define SCOLS_CALLS(X)                                                                             \
	X(scols_line_refer_data)                                                                   \
	X(scols_new_table)                                                                         \
	X(scols_print_table_to_string)                                                             \
	X(scols_table_new_column)                                                                  \
	X(scols_table_new_line)                                                                    \
	X(scols_table_set_termforce)                                                               \
	X(scols_unref_table)

/* libsmartcols, loaded for a table: every command would start with it. */
struct scols {
	SCOLS_CALLS(CS_LIBRARY_CALL)
};

static const struct cs_symbol scols_symbols[] = {
#define ROW(name) { #name, offsetof(struct scols, name) },
	SCOLS_CALLS(ROW)
#undef ROW
};

static inline void json_freep(json_t **json)
{
	json_decref(*json);
}

int cs_report_open(const struct cs_column *columns, size_t n, struct cs_report **ret,
		   struct cs_err *err)
{
	struct cs_report *report = calloc(1, sizeof(*report));

	if (!report)
		return cs_fail_errno(err, ENOMEM, "cannot make a report");
	report->columns = columns;
	report->n_columns = report->elided = n;
	*ret = report;
	return 0;
}

static void fail(struct cs_report *report, int failure)
{
	if (!report->failure)
		report->failure = failure;
}

void cs_report_elide(struct cs_report *report, const char *key)
{
	size_t i = 0;

	while (i < report->n_columns && strcmp(report->columns[i].key, key) != 0)
		i++;
	if (i == report->n_columns)
		fail(report, -EINVAL); /* our own mistake */
	report->elided = i;
}

void cs_report_row(struct cs_report *report)
{
	size_t room = report->room ? report->room * 2 : 16;
	struct value *larger;

	if (report->n_rows == report->room) {
		larger = reallocarray(report->values, room,
				      report->n_columns * sizeof(*report->values));
		if (!larger) {
			fail(report, -ENOMEM);
			return;
		}
		report->values = larger;
		report->room = room;
	}
	memset(&report->values[report->n_rows * report->n_columns], 0,
	       report->n_columns * sizeof(*report->values));
	report->n_rows++;
}

/* The cell of (key) in the last row if its kind is one of (kinds), a set of bits 1 << CS_CELL_...;
 * NULL and a sticky error otherwise. */
static struct value *cell_at(struct cs_report *report, const char *key, unsigned kinds)
{
	struct value *row;

	if (report->failure)
		return NULL;
	for (size_t i = 0; report->n_rows && i < report->n_columns; i++) {
		if (strcmp(report->columns[i].key, key) != 0)
			continue;
		if (!(kinds & 1u << report->columns[i].cell))
			break;
		row = &report->values[(report->n_rows - 1) * report->n_columns];
		return &row[i];
	}
	fail(report, -EINVAL); /* no row, no such column, or not that kind: our own mistake */
	return NULL;
}

void cs_report_text(struct cs_report *report, const char *key, const char *text)
{
	struct value *value = cell_at(report, key, 1u << CS_CELL_TEXT);
	char *copy = NULL;

	if (!value)
		return;
	if (text) {
		copy = strdup(text);
		if (!copy) {
			fail(report, -ENOMEM);
			return;
		}
		cs_text_clean(copy, true);
	}
	free(value->text);
	*value = (struct value){ .kind = copy ? VALUE_TEXT : VALUE_NONE, .text = copy };
}

void cs_report_number(struct cs_report *report, const char *key, uint64_t number)
{
	struct value *value = cell_at(report, key,
				      1u << CS_CELL_COUNT | 1u << CS_CELL_BYTES | 1u << CS_CELL_MS |
					      1u << CS_CELL_TIME | 1u << CS_CELL_BOOL);

	if (value)
		*value = (struct value){ .kind = VALUE_NUMBER, .number = number };
}

void cs_report_real(struct cs_report *report, const char *key, double real)
{
	struct value *value = cell_at(report, key, 1u << CS_CELL_PERCENT | 1u << CS_CELL_MS);

	if (value) /* there is no JSON for infinite or not a number */
		*value = (struct value){ .kind = isfinite(real) ? VALUE_REAL : VALUE_NONE,
					 .real = real };
}

/* ---- for people ---------------------------------------------------------------------------- */

#define TEXT_MAX 40

static void format_ms(double ms, char text[TEXT_MAX])
{
	if (ms >= 0 && ms < 10 && ms != (double)(int)ms)
		snprintf(text, TEXT_MAX, "%.2f ms", ms);
	else if (ms < 1000)
		snprintf(text, TEXT_MAX, "%.0f ms", ms);
	else
		snprintf(text, TEXT_MAX, "%.1f s", ms / 1000);
}

static void format_time(uint64_t seconds, char text[TEXT_MAX])
{
	time_t when = (time_t)seconds;
	struct tm tm;

	if (seconds > INT64_MAX || !localtime_r(&when, &tm) ||
	    !strftime(text, TEXT_MAX, "%Y-%m-%d %H:%M:%S", &tm))
		snprintf(text, TEXT_MAX, "%" PRIu64, seconds);
}

/* The cell as people read it; in (text), or lent from (value). */
static const char *format_cell(enum cs_cell cell, const struct value *value, char text[TEXT_MAX])
{
	char bytes[CS_BYTES_TEXT];

	if (value->kind == VALUE_NONE)
		return "-";
	switch (cell) {
	case CS_CELL_TEXT:
		return value->text[0] ? value->text : "-";
	case CS_CELL_COUNT:
		snprintf(text, TEXT_MAX, "%" PRIu64, value->number);
		break;
	case CS_CELL_BYTES:
		snprintf(text, TEXT_MAX, "%s", cs_format_bytes(value->number, bytes));
		break;
	case CS_CELL_MS:
		format_ms(value->kind == VALUE_REAL ? value->real : (double)value->number, text);
		break;
	case CS_CELL_TIME:
		format_time(value->number, text);
		break;
	case CS_CELL_BOOL:
		return value->number ? "yes" : "no";
	case CS_CELL_PERCENT:
		snprintf(text, TEXT_MAX, "%.2f %%", value->real);
		break;
	}
	return text;
}

/* A cell's text, clean for a terminal, in memory of its own; NULL: no memory. */
static char *show_cell(enum cs_cell cell, const struct value *value)
{
	char text[TEXT_MAX];
	char *copy = strdup(format_cell(cell, value, text));

	return copy ? cs_text_clean(copy, false) : NULL;
}

/* Take the blanks off the end of each line. */
static void trim_lines(char *text)
{
	char *to = text, *end = text; /* (end): behind the last byte of the line that is no blank */

	for (const char *from = text; *from; from++) {
		if (*from == '\n')
			to = end;
		*to++ = *from;
		if (*from != ' ')
			end = to;
	}
	*end = '\0';
}

static int fill_row(const struct scols *sc, const struct cs_report *report, size_t row,
		    struct libscols_table *table)
{
	const struct value *values = &report->values[row * report->n_columns];
	struct libscols_line *line = sc->scols_table_new_line(table, NULL);
	char *text;

	if (!line)
		return -ENOMEM;
	for (size_t i = 0; i < report->n_columns; i++) {
		text = show_cell(report->columns[i].cell, &values[i]);
		if (!text)
			return -ENOMEM;
		if (sc->scols_line_refer_data(line, i, text) < 0) {
			free(text);
			return -ENOMEM;
		}
	}
	return 0;
}

static bool is_number(enum cs_cell cell)
{
	return cell == CS_CELL_COUNT || cell == CS_CELL_BYTES || cell == CS_CELL_MS ||
	       cell == CS_CELL_PERCENT;
}

/* SCOLS_FL_* of column (i). */
static int column_flags(const struct cs_report *report, size_t i)
{
	if (i == report->elided) {
		size_t row = 0;

		while (row < report->n_rows &&
		       report->values[row * report->n_columns + i].kind == VALUE_NONE)
			row++;
		if (row == report->n_rows)
			return SCOLS_FL_HIDDEN;
	}
	return is_number(report->columns[i].cell) ? SCOLS_FL_RIGHT : 0;
}

static int fill_table(const struct scols *sc, const struct cs_report *report,
		      struct libscols_table *table, char **ret)
{
	int r;

	/* The same text wherever it goes: nothing cut to the width of a terminal. */
	sc->scols_table_set_termforce(table, SCOLS_TERMFORCE_NEVER);
	for (size_t i = 0; i < report->n_columns; i++) {
		if (!sc->scols_table_new_column(table, report->columns[i].title, 0,
						column_flags(report, i)))
			return -ENOMEM;
	}
	for (size_t row = 0; row < report->n_rows; row++) {
		r = fill_row(sc, report, row, table);
		if (r < 0)
			return r;
	}
	return sc->scols_print_table_to_string(table, ret);
}

static int format_table(const struct cs_report *report, char **ret, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *body = NULL;
	struct libscols_table *table;
	struct scols sc;
	char *text;
	int r;

	if (!report->n_rows) {
		*ret = strdup("");
		return *ret ? 0 : -ENOMEM;
	}
	r = cs_library_load("libsmartcols.so.1", "libsmartcols1", scols_symbols,
			    sizeof(scols_symbols) / sizeof(scols_symbols[0]), &sc, err);
	if (r < 0)
		return r;
	table = sc.scols_new_table();
	if (!table)
		return -ENOMEM;
	r = fill_table(&sc, report, table, &body);
	sc.scols_unref_table(table);
	if (r < 0)
		return r;
	trim_lines(body);
	if (asprintf(&text, "%s%s", body, body[0] && body[strlen(body) - 1] == '\n' ? "" : "\n") <
	    0)
		return -ENOMEM;
	*ret = text;
	return 0;
}

static int print_record(const struct cs_report *report, FILE *out)
{
	size_t length, width = 0;

	for (size_t i = 0; i < report->n_columns; i++) {
		length = strlen(report->columns[i].title);
		width = length > width ? length : width;
	}
	for (size_t i = 0; report->n_rows && i < report->n_columns; i++) {
		cs_auto(cs_mem_freep) char *cell =
			show_cell(report->columns[i].cell, &report->values[i]);

		if (!cell)
			return -ENOMEM;
		length = strlen(report->columns[i].title);
		fprintf(out, "%s:%*s%s\n", report->columns[i].title, (int)(width - length + 1), "",
			cell);
	}
	return ferror(out) ? -ENOMEM : 0;
}

static int format_record(const struct cs_report *report, char **ret)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	size_t bytes = 0;
	FILE *out;
	int r;

	out = open_memstream(&text, &bytes);
	if (!out)
		return -ENOMEM;
	r = print_record(report, out);
	if (fclose(out) != 0 && r == 0)
		r = -ENOMEM;
	if (r < 0)
		return r;
	trim_lines(text);
	*ret = cs_steal(text);
	return 0;
}

/* ---- for programs -------------------------------------------------------------------------- */

static json_t *json_cell(enum cs_cell cell, const struct value *value)
{
	switch (value->kind) {
	case VALUE_NONE:
		return json_null();
	case VALUE_TEXT:
		return json_string(value->text);
	case VALUE_REAL:
		return json_real(value->real);
	case VALUE_NUMBER:
		break;
	}
	if (cell == CS_CELL_BOOL)
		return json_boolean(value->number != 0);
	/* json_int_t is signed */
	return json_integer(value->number > INT64_MAX ? INT64_MAX : (json_int_t)value->number);
}

static json_t *json_row(const struct cs_report *report, size_t row)
{
	const struct value *values = &report->values[row * report->n_columns];
	cs_auto(json_freep) json_t *object = json_object();

	for (size_t i = 0; i < report->n_columns; i++) {
		if (json_object_set_new(object, report->columns[i].key,
					json_cell(report->columns[i].cell, &values[i])) < 0)
			return NULL;
	}
	return cs_steal(object);
}

static json_t *json_report(const struct cs_report *report, bool record)
{
	cs_auto(json_freep) json_t *array = NULL;

	if (record)
		return report->n_rows ? json_row(report, 0) : json_null();
	array = json_array();
	for (size_t row = 0; row < report->n_rows; row++) {
		if (json_array_append_new(array, json_row(report, row)) < 0)
			return NULL;
	}
	return cs_steal(array);
}

static int format_json(const struct cs_report *report, bool record, char **ret)
{
	cs_auto(json_freep) json_t *json = json_report(report, record);
	cs_auto(cs_mem_freep) char *body = NULL;
	char *text;

	if (!json)
		return -ENOMEM;
	/* ASCII only: a terminal that shows it has nothing to act upon, and any locale can read it
	 */
	body = json_dumps(json, JSON_INDENT(2) | JSON_ENSURE_ASCII | JSON_ENCODE_ANY |
					JSON_REAL_PRECISION(9));
	if (!body || asprintf(&text, "%s\n", body) < 0)
		return -ENOMEM;
	*ret = text;
	return 0;
}

int cs_report_format(const struct cs_report *report, enum cs_format format, char **ret,
		     struct cs_err *err)
{
	int r = report->failure;

	if (r == 0) {
		switch (format) {
		case CS_FORMAT_TABLE:
			r = format_table(report, ret, err);
			if (r == -ENOENT)
				return r; /* no library: (err) says so */
			break;
		case CS_FORMAT_RECORD:
			r = format_record(report, ret);
			break;
		case CS_FORMAT_JSON:
		case CS_FORMAT_JSON_RECORD:
			r = format_json(report, format == CS_FORMAT_JSON_RECORD, ret);
			break;
		}
	}
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot make a report");
	return 0;
}

struct cs_report *cs_report_free(struct cs_report *report)
{
	if (!report)
		return NULL;
	for (size_t i = 0; i < report->n_rows * report->n_columns; i++)
		free(report->values[i].text);
	free(report->values);
	free(report);
	return NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Read a small JSON object (RFC 8259) as a flat list of values that point into its text: no tree,
 * no allocation. For what is read a thousand at a time; a manifest takes a tenth of the time that
 * libjansson needs, of which that for a list of a thousand templates was a third. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Keys and values together; so deep. A manifest has about 100, and 3. */
#define CS_JSON_VALUES 512
#define CS_JSON_DEPTH  16

enum cs_json_kind {
	CS_JSON_NULL,
	CS_JSON_FALSE,
	CS_JSON_TRUE,
	CS_JSON_INTEGER,
	CS_JSON_REAL,
	CS_JSON_TEXT,
	CS_JSON_ARRAY,
	CS_JSON_OBJECT,
};

/* What is in an array or object follows it in the list: of an object a key (a text) and its value
 * by turns. */
struct cs_json_value {
	enum cs_json_kind kind;
	unsigned span;   /* places in the list: itself and all that is in it */
	const char *at;  /* of a text: between the quotes, valid UTF-8, escapes not undone */
	size_t bytes;    /* of that */
	int64_t integer; /* of an integer */
};

struct cs_json {
	struct cs_json_value value[CS_JSON_VALUES]; /* the first is the object */
	unsigned n, line; /* how many there are; of an error: where, from 1 */
};

/* Read (text), which may be anything and must outlive *ret; its first value is the object.
 * -EBADMSG: not one JSON object, or a key twice; stricter than JSON, so also: an integer over 64
 * bits, a NUL in a text, an escape in a key. -E2BIG: more values, or deeper, than above. */
int cs_json_read(const char *text, size_t bytes, struct cs_json *ret);

/* The value of (key) in (object), lent; NULL: there is none. */
const struct cs_json_value *cs_json_get(const struct cs_json_value *object, const char *key);

/* Each key of an object; its value is behind it. */
#define cs_json_foreach(key, object)                                                               \
	for ((key) = (object) + 1; (key) < (object) + (object)->span; (key) += 1 + (key)[1].span)

/* Is (text) the same as (word)? Of a key, or of a text without escapes. */
bool cs_json_is(const struct cs_json_value *text, const char *word);

/* A text as it is meant, NUL-terminated; no NUL is in it. Its length; -ENAMETOOLONG: (room) is too
 * small. */
int cs_json_text(const struct cs_json_value *text, char *ret, size_t room);

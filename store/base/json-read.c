/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/json-read.h"

#include <errno.h>
#include <string.h>

#include "store/base/text.h"

struct scan {
	const char *at, *end;
	struct cs_json *json;
};

static void skip_blanks(struct scan *s)
{
	while (s->at < s->end &&
	       (*s->at == ' ' || *s->at == '\n' || *s->at == '\t' || *s->at == '\r'))
		s->at++;
}

static bool take(struct scan *s, char c)
{
	if (s->at == s->end || *s->at != c)
		return false;
	s->at++;
	return true;
}

/* A new place in the list; NULL: it is full. */
static struct cs_json_value *add(struct scan *s, enum cs_json_kind kind)
{
	struct cs_json_value *value;

	if (s->json->n == CS_JSON_VALUES)
		return NULL;
	value = &s->json->value[s->json->n++];
	*value = (struct cs_json_value){ .kind = kind, .span = 1 };
	return value;
}

/* ---- texts ---- */

/* Four hexadecimal digits; -1: they are not. */
static int32_t hex4(const char *at, const char *end)
{
	int32_t code = 0;

	if (end - at < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		const char c = at[i];

		if (c >= '0' && c <= '9')
			code = code << 4 | (c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			code = code << 4 | ((c | 0x20) - 'a' + 10);
		else
			return -1;
	}
	return code;
}

static size_t encode(uint32_t code, char ret[4])
{
	if (code < 0x80) {
		ret[0] = (char)code;
		return 1;
	}
	if (code < 0x800) {
		ret[0] = (char)(0xc0 | code >> 6);
		ret[1] = (char)(0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000) {
		ret[0] = (char)(0xe0 | code >> 12);
		ret[1] = (char)(0x80 | (code >> 6 & 0x3f));
		ret[2] = (char)(0x80 | (code & 0x3f));
		return 3;
	}
	ret[0] = (char)(0xf0 | code >> 18);
	ret[1] = (char)(0x80 | (code >> 12 & 0x3f));
	ret[2] = (char)(0x80 | (code >> 6 & 0x3f));
	ret[3] = (char)(0x80 | (code & 0x3f));
	return 4;
}

/* The escape behind the backslash at (at): what it means in (ret) and (ret_bytes), its length with
 * the backslash; 0: it is none. What lies over U+FFFF is two, a pair of surrogates. */
static size_t undo_escape(const char *at, const char *end, char ret[4], size_t *ret_bytes)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *known;
	int32_t high, low;

	if (end - at < 2)
		return 0;
	if (at[1] != 'u') {
		known = memchr(from, at[1], sizeof(from) - 1);
		if (!known)
			return 0;
		ret[0] = to[known - from];
		*ret_bytes = 1;
		return 2;
	}
	high = hex4(at + 2, end);
	if (high <= 0 || (high >= 0xdc00 && high <= 0xdfff))
		return 0;
	if (high < 0xd800 || high > 0xdfff) {
		*ret_bytes = encode((uint32_t)high, ret);
		return 6;
	}
	if (end - at < 12 || at[6] != '\\' || at[7] != 'u')
		return 0;
	low = hex4(at + 8, end);
	if (low < 0xdc00 || low > 0xdfff)
		return 0;
	*ret_bytes =
		encode(0x10000 + ((uint32_t)(high - 0xd800) << 10) + (uint32_t)(low - 0xdc00), ret);
	return 12;
}

static bool is_plain(unsigned char c)
{
	return c >= ' ' && c < 0x80 && c != '\\';
}

/* The length of what is neither a quote nor one byte of ASCII; 0: it may not be there. */
static size_t odd_length(const char *at, const char *end)
{
	char few[5] = "";
	size_t bytes;

	if (*at == '\\')
		return undo_escape(at, end, few, &bytes);
	if ((unsigned char)*at < 0x80) /* a control character */
		return 0;
	memcpy(few, at, end - at < 4 ? (size_t)(end - at) : 4);
	return cs_text_sequence(few);
}

static int read_text(struct scan *s)
{
	struct cs_json_value *value = add(s, CS_JSON_TEXT);
	const char *at = s->at + 1;
	size_t n;

	if (!value)
		return -E2BIG;
	value->at = at;
	for (; at < s->end && *at != '"'; at += n) {
		n = is_plain((unsigned char)*at) ? 1 : odd_length(at, s->end);
		if (!n)
			break;
	}
	s->at = at;
	value->bytes = (size_t)(at - value->at);
	return take(s, '"') ? 0 : -EBADMSG;
}

/* ---- numbers and words ---- */

static bool skip_digits(struct scan *s)
{
	const char *from = s->at;

	while (s->at < s->end && *s->at >= '0' && *s->at <= '9')
		s->at++;
	return s->at > from;
}

static int set_integer(struct cs_json_value *value, const char *at, const char *end)
{
	const bool negative = *at == '-';
	int64_t number = 0;

	for (at += negative; at < end; at++) {
		const int digit = *at - '0';

		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, negative ? -digit : digit, &number))
			return -EBADMSG;
	}
	value->integer = number;
	return 0;
}

static int read_number(struct scan *s)
{
	struct cs_json_value *value = add(s, CS_JSON_INTEGER);
	const char *from = s->at;

	if (!value)
		return -E2BIG;
	take(s, '-');
	if (!take(s, '0') && !skip_digits(s))
		return -EBADMSG;
	if (take(s, '.')) {
		value->kind = CS_JSON_REAL;
		if (!skip_digits(s))
			return -EBADMSG;
	}
	if (take(s, 'e') || take(s, 'E')) {
		value->kind = CS_JSON_REAL;
		if (!take(s, '-'))
			take(s, '+');
		if (!skip_digits(s))
			return -EBADMSG;
	}
	return value->kind == CS_JSON_INTEGER ? set_integer(value, from, s->at) : 0;
}

static int read_word(struct scan *s)
{
	static const struct {
		const char *word;
		size_t bytes;
		enum cs_json_kind kind;
	} words[] = { { "true", 4, CS_JSON_TRUE },
		      { "false", 5, CS_JSON_FALSE },
		      { "null", 4, CS_JSON_NULL } };

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if ((size_t)(s->end - s->at) < words[i].bytes ||
		    memcmp(s->at, words[i].word, words[i].bytes) != 0)
			continue;
		s->at += words[i].bytes;
		return add(s, words[i].kind) ? 0 : -E2BIG;
	}
	return -EBADMSG;
}

/* ---- what has others in it ---- */

static bool is_same(const struct cs_json_value *a, const struct cs_json_value *b)
{
	return a->bytes == b->bytes && memcmp(a->at, b->at, a->bytes) == 0;
}

/* The key of the next member of (object), which is the last thing in the list. */
static int read_key(struct scan *s, const struct cs_json_value *object)
{
	const struct cs_json_value *key = &s->json->value[s->json->n], *other;
	int r;

	if (s->at == s->end || *s->at != '"')
		return -EBADMSG;
	r = read_text(s);
	if (r < 0)
		return r;
	/* written in two ways it could be there twice */
	if (memchr(key->at, '\\', key->bytes))
		return -EBADMSG;
	for (other = object + 1; other < key; other += 1 + other[1].span) {
		if (is_same(other, key))
			return -EBADMSG;
	}
	skip_blanks(s);
	return take(s, ':') ? 0 : -EBADMSG;
}

static int read_value(struct scan *s, unsigned depth);

static int read_members(struct scan *s, enum cs_json_kind kind, unsigned depth)
{
	struct cs_json_value *whole = add(s, kind);
	const char close = kind == CS_JSON_OBJECT ? '}' : ']';
	int r = 0;

	if (!whole || !depth)
		return -E2BIG;
	s->at++;
	skip_blanks(s);
	if (take(s, close))
		return 0;
	do {
		skip_blanks(s);
		if (kind == CS_JSON_OBJECT)
			r = read_key(s, whole);
		if (r == 0)
			r = read_value(s, depth - 1);
		if (r < 0)
			return r;
		skip_blanks(s);
	} while (take(s, ','));
	whole->span = (unsigned)(&s->json->value[s->json->n] - whole);
	return take(s, close) ? 0 : -EBADMSG;
}

static int read_value(struct scan *s, unsigned depth)
{
	skip_blanks(s);
	if (s->at == s->end)
		return -EBADMSG;
	switch (*s->at) {
	case '{':
		return read_members(s, CS_JSON_OBJECT, depth);
	case '[':
		return read_members(s, CS_JSON_ARRAY, depth);
	case '"':
		return read_text(s);
	case '-':
	case '0' ... '9':
		return read_number(s);
	default:
		return read_word(s);
	}
}

int cs_json_read(const char *text, size_t bytes, struct cs_json *ret)
{
	struct scan s = { .at = text, .end = text + bytes, .json = ret };
	int r;

	ret->n = 0;
	r = read_value(&s, CS_JSON_DEPTH);
	if (r == 0) {
		skip_blanks(&s);
		r = s.at == s.end && ret->value[0].kind == CS_JSON_OBJECT ? 0 : -EBADMSG;
	}
	ret->line = 1;
	for (const char *p = text; r < 0 && p < s.at; p++)
		ret->line += *p == '\n';
	return r;
}

/* ---- asking ---- */

bool cs_json_is(const struct cs_json_value *text, const char *word)
{
	const size_t bytes = strlen(word);

	return text->bytes == bytes && memcmp(text->at, word, bytes) == 0;
}

const struct cs_json_value *cs_json_get(const struct cs_json_value *object, const char *key)
{
	const struct cs_json_value *at;

	cs_json_foreach(at, object)
	{
		if (cs_json_is(at, key))
			return at + 1;
	}
	return NULL;
}

int cs_json_text(const struct cs_json_value *text, char *ret, size_t room)
{
	const char *at = text->at, *end = at + text->bytes;
	size_t used = 0, bytes, n;
	char meant[4];

	if (!memchr(at, '\\', text->bytes)) {
		if (text->bytes >= room)
			return -ENAMETOOLONG;
		*(char *)mempcpy(ret, at, text->bytes) = '\0';
		return (int)text->bytes;
	}
	for (; at < end; at += n) {
		meant[0] = *at;
		bytes = n = 1;
		if (*at == '\\')
			n = undo_escape(at, end, meant, &bytes);
		if (used + bytes >= room)
			return -ENAMETOOLONG;
		memcpy(ret + used, meant, bytes);
		used += bytes;
	}
	ret[used] = '\0';
	return (int)used;
}

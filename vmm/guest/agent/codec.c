/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/guest/agent/codec.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

struct cs_reader cs_reader_over(const void *payload, size_t bytes)
{
	return (struct cs_reader){ .at = payload, .left = bytes };
}

/* (bytes) of the payload, or NULL and bad for ever. */
static const void *take(struct cs_reader *r, size_t bytes)
{
	const void *at = r->at;

	if (r->bad || bytes > r->left) {
		r->bad = true;
		return NULL;
	}

	r->at += bytes;
	r->left -= bytes;
	return at;
}

void cs_reader_bytes(struct cs_reader *r, void *into, size_t bytes)
{
	const void *at = take(r, bytes);

	if (at)
		memcpy(into, at, bytes);
	else
		memset(into, 0, bytes);
}

uint32_t cs_reader_u32(struct cs_reader *r)
{
	uint32_t value;

	cs_reader_bytes(r, &value, sizeof(value));
	return le32toh(value);
}

const char *cs_reader_string(struct cs_reader *r)
{
	const uint8_t *end = r->bad || !r->left ? NULL : memchr(r->at, 0, r->left);

	if (!end) {
		r->bad = true;
		return "";
	}

	return take(r, (size_t)(end - r->at) + 1);
}

char **cs_reader_list(struct cs_reader *r)
{
	uint32_t n = cs_reader_u32(r);
	char **list;

	/* Each string has at least its NUL: a larger count is a lie, and must not reach malloc. */
	if (r->bad || n > r->left) {
		r->bad = true;
		return NULL;
	}

	list = calloc((size_t)n + 1, sizeof(*list));
	if (!list) {
		r->bad = true;
		return NULL;
	}

	for (uint32_t i = 0; i < n; i++)
		list[i] = (char *)cs_reader_string(r);
	if (r->bad) {
		free(list);
		return NULL;
	}

	return list;
}

bool cs_reader_done(const struct cs_reader *r)
{
	return !r->bad && r->left == 0;
}

void cs_head_put(void *into, enum cs_wire_type type, uint32_t bytes)
{
	struct cs_wire_head head = { .type = htole32(type), .bytes = htole32(bytes) };

	memcpy(into, &head, sizeof(head));
}

struct cs_wire_head cs_head_get(const void *from)
{
	struct cs_wire_head head;

	memcpy(&head, from, sizeof(head));
	head.type = le32toh(head.type);
	head.bytes = le32toh(head.bytes);
	return head;
}

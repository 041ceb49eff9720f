/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The payloads of wire.h, taken apart. Nothing here trusts a byte: a reader never leaves its
 * payload, and after the first thing that does not fit it only says so. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/guest/agent/wire.h"

struct cs_reader {
	const uint8_t *at;
	size_t left;
	bool bad; /* something did not fit; everything read since is zero */
};

/* A head in front of its payload, as it travels. */
#define CS_HEAD_BYTES sizeof(struct cs_wire_head)

struct cs_reader cs_reader_over(const void *payload, size_t bytes);

uint32_t cs_reader_u32(struct cs_reader *r);

/* (bytes) into (into), which is zeroed when they are not there. */
void cs_reader_bytes(struct cs_reader *r, void *into, size_t bytes);

/* A string, lent out of the payload; "" when there is none. */
const char *cs_reader_string(struct cs_reader *r);

/* A list of strings: a NULL-ended array, the caller's to free(); the strings are lent out of the
 * payload. NULL when it does not fit, or when there is no memory (r->bad then as well). */
char **cs_reader_list(struct cs_reader *r);

/* All of the payload has been read, and all of it fitted. */
bool cs_reader_done(const struct cs_reader *r);

/* Write the head of a message into (into), CS_HEAD_BYTES of room. */
void cs_head_put(void *into, enum cs_wire_type type, uint32_t bytes);

struct cs_wire_head cs_head_get(const void *from);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes that wait: what a socket or a pipe did not take yet. Holds no memory while empty. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct cs_queue {
	uint8_t *data;
	size_t start, end, room; /* the bytes are data[start..end) */
};

static inline size_t cs_queue_bytes(const struct cs_queue *q)
{
	return q->end - q->start;
}

static inline const uint8_t *cs_queue_at(const struct cs_queue *q)
{
	return q->data + q->start;
}

/* Append a copy. -ENOMEM: nothing has changed. */
int cs_queue_put(struct cs_queue *q, const void *data, size_t bytes);

/* The first (bytes) have gone. The last one gives the memory back. */
void cs_queue_drop(struct cs_queue *q, size_t bytes);

void cs_queue_clear(struct cs_queue *q);

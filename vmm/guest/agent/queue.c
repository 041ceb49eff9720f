/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/guest/agent/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int cs_queue_put(struct cs_queue *q, const void *data, size_t bytes)
{
	size_t held = cs_queue_bytes(q);

	if (!bytes)
		return 0;

	if (q->start && bytes > q->room - q->end) {
		memmove(q->data, q->data + q->start, held);
		q->start = 0;
		q->end = held;
	}

	if (bytes > q->room - q->end) {
		size_t room = held + bytes;
		uint8_t *grown = realloc(q->data, room);

		if (!grown)
			return -ENOMEM;
		q->data = grown;
		q->room = room;
	}

	memcpy(q->data + q->end, data, bytes);
	q->end += bytes;
	return 0;
}

void cs_queue_drop(struct cs_queue *q, size_t bytes)
{
	q->start += bytes;
	if (q->start >= q->end)
		cs_queue_clear(q);
}

void cs_queue_clear(struct cs_queue *q)
{
	free(q->data);
	*q = (struct cs_queue){ 0 };
}

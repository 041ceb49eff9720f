/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/message.h"

#include <endian.h>
#include <stdbool.h>
#include <string.h>

struct cs_message {
	struct cs_wire_head head;
	char payload[CS_WIRE_MAX];
	size_t used;
	bool too_big;
};

struct cs_message *cs_message_create(enum cs_wire_type type)
{
	struct cs_message *message = malloc(sizeof(*message));

	if (!message)
		return NULL;
	message->head.type = htole32(type);
	message->used = 0;
	message->too_big = false;
	return message;
}

void cs_message_bytes(struct cs_message *message, const void *data, size_t bytes)
{
	if (message->too_big || bytes > sizeof(message->payload) - message->used) {
		message->too_big = true;
		return;
	}
	if (bytes)
		memcpy(message->payload + message->used, data, bytes);
	message->used += bytes;
}

void cs_message_string(struct cs_message *message, const char *text)
{
	if (!text)
		text = "";
	cs_message_bytes(message, text, strlen(text) + 1);
}

void cs_message_list(struct cs_message *message, char *const *strings)
{
	uint32_t count = 0;

	while (strings && strings[count])
		count++;
	cs_message_bytes(message, &(uint32_t){ htole32(count) }, sizeof(count));
	for (uint32_t i = 0; i < count && !message->too_big; i++)
		cs_message_string(message, strings[i]);
}

int cs_message_end(struct cs_message *message, const void **ret, size_t *ret_bytes)
{
	if (message->too_big)
		return -E2BIG;
	message->head.bytes = htole32((uint32_t)message->used);
	*ret = message;
	*ret_bytes = sizeof(message->head) + message->used;
	return 0;
}

struct cs_message *cs_message_free(struct cs_message *message)
{
	free(message);
	return NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A message of wire.h, put together piece by piece. Errors stick: what does not fit makes
 * cs_message_end() fail, so that no piece needs a check of its own. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "store/base/own.h"
#include "vmm/guest/agent/wire.h"

struct cs_message; /* room for a head and CS_WIRE_MAX of payload */

struct cs_message *cs_message_create(enum cs_wire_type type); /* NULL: no memory */
void cs_message_bytes(struct cs_message *message, const void *data, size_t bytes);
void cs_message_string(struct cs_message *message, const char *text);   /* NULL: "" */
void cs_message_list(struct cs_message *message, char *const *strings); /* NULL: an empty one */

/* Head and payload in *ret, lent until the message is freed: their bytes. -E2BIG. */
int cs_message_end(struct cs_message *message, const void **ret, size_t *ret_bytes);

struct cs_message *cs_message_free(struct cs_message *message);
CS_DEFINE_AUTO(cs_message);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What CONFIG said. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cs_config {
	uint64_t realtime_ns, clock_ns;
	uint32_t flags; /* enum cs_wire_config_flag */
	uint8_t seed[32];
	uint8_t boot_id[16], machine_id[16]; /* random bytes */
	bool seeded;                         /* there was a CONFIG: clock and seed are real */
	char hostname[65];
	char **argv, **env; /* own arrays, NULL-ended; their strings lie in (message) */
	uint8_t *message;
};

/* Take the payload of CONFIG apart. *ret owns argv and env; their strings stay lent out of the
 * payload. -EPROTO, *ret untouched: it is none. */
int cs_config_parse(struct cs_config *ret, const void *payload, size_t bytes);

/* COMMAND has been started, or is not to be: free what it needed. */
void cs_config_forget_command(struct cs_config *c);

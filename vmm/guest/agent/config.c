/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/guest/agent/config.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/guest/agent/codec.h"

/* A host name goes into files and onto terminals: letters, digits, '-', '.', nothing else. */
static bool good_hostname(const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < n; i++) {
		char c = name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '-' || c == '.' || c == '_'))
			return false;
	}

	return n < sizeof(((struct cs_config *)0)->hostname);
}

int cs_config_parse(struct cs_config *ret, const void *payload, size_t bytes)
{
	struct cs_reader r = cs_reader_over(payload, bytes);
	struct cs_config c = { .message = NULL };
	struct cs_wire_config head;
	const char *hostname;

	cs_reader_bytes(&r, &head, sizeof(head));
	hostname = cs_reader_string(&r);
	c.argv = cs_reader_list(&r);
	c.env = cs_reader_list(&r);
	if (!cs_reader_done(&r) || !good_hostname(hostname)) {
		free(c.argv);
		free(c.env);
		return -EPROTO;
	}

	c.realtime_ns = le64toh(head.realtime_ns);
	c.clock_ns = le64toh(head.clock_ns);
	c.flags = le32toh(head.flags);
	c.seeded = true;
	memcpy(c.seed, head.seed, sizeof(c.seed));
	memcpy(c.boot_id, head.boot_id, sizeof(c.boot_id));
	memcpy(c.machine_id, head.machine_id, sizeof(c.machine_id));
	memcpy(c.hostname, hostname, strlen(hostname) + 1);
	*ret = c;
	return 0;
}

void cs_config_forget_command(struct cs_config *c)
{
	free(c->argv);
	free(c->env);
	free(c->message);
	c->argv = c->env = NULL;
	c->message = NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/cmd-up.h"

#include <string.h>

#include "store/base/own.h"
#include "vmm/client.h"
#include "vmm/control.h"

#define STATUS_MS       10000
#define TIMEOUT_DEFAULT "60"
#define TIMEOUT_MAX     86400

static const struct argp_option up_options[] = {
	{ "timeout", 't', "SECONDS", 0,
	  "Wait so long for one that still boots or wakes; 0: not at all (default: " TIMEOUT_DEFAULT
	  ")",
	  0 },
	{ 0 },
};

static error_t parse_up(int key, char *arg, struct argp_state *state)
{
	struct cs_up_options *o = state->input;

	if (key != 't')
		return ARGP_ERR_UNKNOWN;
	o->timeout = arg;
	return 0;
}

const struct argp cs_up_argp = { .options = up_options, .parser = parse_up };

int cs_up_end(const struct cs_up_options *o, uint64_t *ret_end_ms, struct cs_err *err)
{
	uint64_t seconds;
	int r = cs_cmd_number("timeout", o->timeout ? o->timeout : TIMEOUT_DEFAULT, 0, TIMEOUT_MAX,
			      &seconds, err);

	if (r == 0)
		*ret_end_ms = cs_cmd_now_ms() + seconds * 1000;
	return r;
}

bool cs_up_is_booting(const char *status)
{
	return strncmp(status, "state=booting", 13) == 0;
}

void cs_up_wait(const struct cs_cmd_guest *guest, uint64_t end_ms)
{
	cs_auto(cs_mem_freep) char *status = NULL;
	const uint64_t now = cs_cmd_now_ms();
	uint64_t us;

	if (now >= end_ms)
		return;
	if (cs_control_call(guest->dirfd, "status", STATUS_MS, &status, NULL) == 0 &&
	    cs_up_is_booting(status))
		cs_client_ping(guest->dirfd, (unsigned)(end_ms - now), &us, NULL);
}

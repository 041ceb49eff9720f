/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* balloon: how much of its memory a guest may use. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/base/guest.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"
#include "vmm/control.h"

#define CALL_MS  2000
#define STUCK_MS 10000 /* the guest gives no page more so long: it has none */
#define LOOK_NS  100000000

struct balloon_options {
	const char *guest, *size;
	bool wait;
};

static const struct argp_option options[] = {
	{ "wait", 'w', NULL, 0, "Return when the guest has done it", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct balloon_options *o = state->input;

	switch (key) {
	case 'w':
		o->wait = true;
		return 0;
	case ARGP_KEY_ARG:
		if (!o->guest)
			o->guest = arg;
		else if (!o->size)
			o->size = arg;
		else
			argp_error(state, "'%s': a guest and a size, no more", arg);
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no guest given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* Below the least that a guest is spawned with no kernel lives. */
static int check_size(const struct balloon_options *o, const struct cs_card *card, uint64_t *ret,
		      struct cs_err *err)
{
	char have[CS_BYTES_TEXT], least[CS_BYTES_TEXT];
	uint64_t bytes;

	if (strcmp(o->size, "all") == 0) {
		*ret = card->ram_bytes;
		return 0;
	}
	if (cs_parse_bytes(o->size, &bytes) < 0)
		return cs_fail(err, EINVAL, "size '%.40s': not a size (try 64M, or all)", o->size);
	if (bytes > card->ram_bytes || bytes < CS_RAM_MIN)
		return cs_fail(err, EINVAL, "size '%.40s': guest '%s' can get by with %s to %s",
			       o->size, card->guest, cs_format_bytes(CS_RAM_MIN, least),
			       cs_format_bytes(card->ram_bytes, have));
	*ret = bytes;
	return 0;
}

struct sizes {
	uint64_t target, actual;
};

static int ask(const struct cs_cmd_guest *guest, struct sizes *ret, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *status = NULL;
	int r;

	r = cs_control_call(guest->dirfd, "status", CALL_MS, &status, err);
	if (r < 0)
		return cs_fail_in(err, r, "guest '%s'", guest->card->guest);
	if (cs_cmd_status_number(status, "target_bytes", &ret->target) < 0 ||
	    cs_cmd_status_number(status, "actual_bytes", &ret->actual) < 0)
		return cs_fail(err, EPROTO,
			       "guest '%s': its monitor is of another version (restart it)",
			       guest->card->guest);
	return 0;
}

static int set(const struct cs_cmd_guest *guest, uint64_t bytes, struct cs_err *err)
{
	char line[40];
	int r;

	snprintf(line, sizeof(line), "balloon %" PRIu64, bytes);
	r = cs_control_call(guest->dirfd, line, CALL_MS, NULL, err);
	return r < 0 ? cs_fail_in(err, r, "guest '%s'", guest->card->guest) : 0;
}

static int wait_done(const struct cs_cmd_guest *guest, struct sizes *sizes, struct cs_err *err)
{
	uint64_t since = cs_cmd_now_ms(), before = sizes->actual;
	char have[CS_BYTES_TEXT], want[CS_BYTES_TEXT];

	while (sizes->actual != sizes->target) {
		int r;

		nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
		r = ask(guest, sizes, err);
		if (r < 0)
			return r;
		if (sizes->actual != before) {
			before = sizes->actual;
			since = cs_cmd_now_ms();
		} else if (cs_cmd_now_ms() - since > STUCK_MS) {
			return cs_fail(
				err, ETIMEDOUT,
				"guest '%s': it has come to %s on its way to %s, and gets no "
				"further (it needs its memory; it goes on trying)",
				guest->card->guest, cs_format_bytes(sizes->actual, have),
				cs_format_bytes(sizes->target, want));
		}
	}
	return 0;
}

static const struct cs_column columns[] = {
	{ "name", "NAME", CS_CELL_TEXT },
	{ "ram_bytes", "MEMORY", CS_CELL_BYTES },
	{ "target_bytes", "TARGET", CS_CELL_BYTES },
	{ "actual_bytes", "ACTUAL", CS_CELL_BYTES },
};

static int print_sizes(const struct cs_globals *globals, const struct cs_card *card,
		       const struct sizes *sizes, struct cs_err *err)
{
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	int r;

	r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r < 0)
		return r;
	cs_report_row(report);
	cs_report_text(report, "name", card->guest);
	cs_report_number(report, "ram_bytes", card->ram_bytes);
	cs_report_number(report, "target_bytes", sizes->target);
	cs_report_number(report, "actual_bytes", sizes->actual);
	return cs_cmd_print(globals, report, CS_FORMAT_RECORD, err);
}

static int run(const struct cs_globals *globals, void *opts, struct cs_err *err)
{
	const struct balloon_options *o = opts;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
	struct sizes sizes;
	uint64_t bytes = 0;
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_cmd_guest_running(store, o->guest, &guest, err);
	if (r == 0 && o->size)
		r = check_size(o, guest.card, &bytes, err);
	if (r == 0 && o->size)
		r = set(&guest, bytes, err);
	if (r == 0)
		r = ask(&guest, &sizes, err);
	if (r == 0 && o->wait)
		r = wait_done(&guest, &sizes, err);
	return r < 0 ? r : print_sizes(globals, guest.card, &sizes, err);
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "GUEST [SIZE]",
	.doc = "Say how much of its memory a guest may use: SIZE, or all. Its kernel sets the rest "
	       "aside, and the host has it back; when the guest would run out of memory, it takes "
	       "what it needs. Without SIZE, show how things are."
	       "\vFree memory goes back to the host by itself, with a delay of some seconds: this "
	       "is for what the guest would fill with caches.\n",
};

const struct cs_command cs_cmd_balloon = {
	.name = "balloon",
	.summary = "Say how much of its memory a guest may use",
	.argp = &argp,
	.options_bytes = sizeof(struct balloon_options),
	.reports = true,
	.run = run,
};

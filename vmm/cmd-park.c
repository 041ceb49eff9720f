/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* park: guests that run become guests that wait on disk. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cow/park.h"
#include "store/base/own.h"
#include "vmm/cmd-guest.h"
#include "vmm/cmd-up.h"
#include "vmm/command.h"
#include "vmm/control.h"

/* Freezing a busy guest, and writing all of its memory to a slow disk. */
#define PARK_TIMEOUT_MS 600000
#define QUIT_TIMEOUT_MS 10000
#define END_MS          30000

/* What it came to. */
struct parked {
	uint64_t pause_us, pages, bytes;
};

/* The memory of a guest that was resumed is mapped from its template's. One that was to be and had
 * to boot (its state did not fit the host) is told by its monitor. */
static int is_from_memory(const struct cs_cmd_guest *guest, bool *ret, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *status = NULL;
	uint64_t value;
	int r;

	r = cs_control_call(guest->dirfd, "status", QUIT_TIMEOUT_MS, &status, err);
	if (r == 0)
		r = cs_cmd_status_number(status, "from_memory", &value);
	if (r < 0)
		return cs_fail(err, EPROTO, "its monitor is of another version (restart it)");
	*ret = value;
	return 0;
}

/* From here on the guest stands still. When we fail or are killed it goes on; behind the rename it
 * is parked as soon as its monitor has ended. */
static int park_held(const struct cs_cmd_guest *guest, struct cs_park *park, bool from_memory,
		     int control_fd, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int pidfd = cs_cmd_guest_pidfd(guest->card);
	struct cs_err ignored;
	int r;

	if (pidfd < 0)
		return cs_fail_errno(err, pidfd, "cannot watch its monitor");
	r = cs_park_publish(park, from_memory, err);
	if (r < 0)
		return r;
	/* That it cannot be told that it may end is no reason to think it went on: look. */
	cs_control_quit(control_fd, QUIT_TIMEOUT_MS, &ignored);
	if (cs_cmd_wait_ended(&pidfd, 1, END_MS))
		return cs_fail(err, ETIMEDOUT, "its monitor (process %d) does not end",
			       (int)guest->card->pid);
	return 0;
}

static int park_guest(struct cs_store *store, const struct cs_cmd_guest *guest, uint64_t end_ms,
		      struct parked *ret, struct cs_err *err)
{
	cs_auto(cs_park_freep) struct cs_park *park = NULL;
	cs_auto(cs_mem_freep) char *text = NULL;
	cs_auto(cs_fd_closep) int control_fd = -1;
	bool from_memory = false;
	int r;

	if (guest->card->remove_on_exit)
		return cs_fail(err, EBUSY, "somebody waits for its end (clearstore run)");
	cs_up_wait(guest, end_ms);
	r = is_from_memory(guest, &from_memory, err);
	if (r == 0)
		r = cs_park_create(store, guest->card, &park, err);
	if (r == 0)
		r = cs_control_park(guest->dirfd, cs_park_fds(park), PARK_TIMEOUT_MS, &text,
				    &control_fd, err);
	if (r < 0)
		return r;
	if (sscanf(text, "pause_us=%" SCNu64 " pages=%" SCNu64 " bytes=%" SCNu64, &ret->pause_us,
		   &ret->pages, &ret->bytes) != 3)
		return cs_fail(err, EPROTO, "its monitor is of another version (restart it)");
	return park_held(guest, park, from_memory, control_fd, err);
}

/* ---- the command --------------------------------------------------------------------------- */

struct park_options {
	struct cs_guests_options guests;
	struct cs_up_options up;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct park_options *o = state->input;

	if (key != ARGP_KEY_INIT)
		return ARGP_ERR_UNKNOWN;
	state->child_inputs[0] = &o->guests;
	state->child_inputs[1] = &o->up;
	return 0;
}

static const struct cs_column columns[] = {
	{ "name", "NAME", CS_CELL_TEXT },
	{ "written_bytes", "WRITTEN", CS_CELL_BYTES },
};

static int park_all(struct cs_guests *guests, uint64_t end_ms, struct cs_report *report)
{
	for (size_t i = 0; i < guests->n; i++) {
		const struct cs_cmd_guest *guest = &guests->v[i];
		struct cs_err failure = { 0 };
		struct parked parked = { 0 };
		int r;

		if (guest->card->state != CS_GUEST_RUNNING)
			r = cs_fail(&failure, ESRCH, "does not run");
		else
			r = park_guest(guests->store, guest, end_ms, &parked, &failure);
		if (r < 0) {
			cs_guests_failed(guests, guest, &failure);
			continue;
		}
		cs_report_row(report);
		cs_report_text(report, "name", guest->card->guest);
		cs_report_number(report, "written_bytes", parked.bytes);
	}
	return guests->failures ? EXIT_FAILURE : 0;
}

static int run(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	struct park_options *o = options;
	cs_auto(cs_words_freep) struct cs_words names = o->guests.names;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_guests_closep) struct cs_guests guests = { 0 };
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	uint64_t end_ms = 0;
	int r, printed;

	r = cs_up_end(&o->up, &end_ms, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_guests_open(store, &o->guests, CS_GUESTS_RUNNING, &guests, err);
	if (r == 0)
		r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r < 0)
		return r;
	r = park_all(&guests, end_ms, report);
	printed = cs_cmd_print(globals, report, CS_FORMAT_TABLE, err);
	return printed < 0 ? printed : r;
}

static const struct argp_child children[] = {
	{ &cs_guests_argp, 0, NULL, 0 },
	{ &cs_up_argp, 0, NULL, 0 },
	{ 0 },
};

static const struct argp argp = {
	.parser = parse,
	.args_doc = "GUEST...",
	.doc = "Put guests to sleep: what differs from their template is written to disk, and no "
	       "process and no memory of theirs is left. start, exec, ping and console wake one: "
	       "it goes on where it stood.",
	.children = children,
};

const struct cs_command cs_cmd_park = {
	.name = "park",
	.summary = "Put guests to sleep, on disk",
	.argp = &argp,
	.options_bytes = sizeof(struct park_options),
	.reports = true,
	.run = run,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* logs: what a guest wrote to its console. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/own.h"
#include "store/base/text.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"

#define CHUNK 65536
#define TAIL  256

struct log {
	int fd;
	uint64_t offset;
	bool clean;      /* a terminal is to show it: nothing of the guest's may steer that */
	char tail[TAIL]; /* the last that was read, to find the place again */
	size_t tail_bytes;
};

/* ---- showing ------------------------------------------------------------------------------- */

/* Write (text), which has room for a NUL at (bytes), line by line and clean. */
static int show_clean(char *text, size_t bytes)
{
	char *end = text + bytes;
	int r;

	for (char *line = text; line < end;) {
		char *newline = memchr(line, '\n', (size_t)(end - line));
		char *stop = newline ? newline : end;
		char *to = line;

		for (char *from = line; from < stop; from++) {
			if (*from != '\r')
				*to++ = *from ? *from : '?';
		}
		*to = '\0';
		cs_text_clean(line, false);
		r = cs_write_full(STDOUT_FILENO, line, (size_t)(to - line));
		if (r == 0 && newline)
			r = cs_write_full(STDOUT_FILENO, "\n", 1);
		if (r < 0)
			return r;
		line = stop + 1;
	}
	return 0;
}

static void remember(struct log *log, const char *text, size_t bytes)
{
	size_t keep;

	if (bytes >= TAIL) {
		memcpy(log->tail, text + bytes - TAIL, TAIL);
		log->tail_bytes = TAIL;
		return;
	}
	keep = log->tail_bytes < TAIL - bytes ? log->tail_bytes : TAIL - bytes;
	memmove(log->tail, log->tail + log->tail_bytes - keep, keep);
	memcpy(log->tail + keep, text, bytes);
	log->tail_bytes = keep + bytes;
}

/* A log that grows over its limit loses its older half: what we read last is then found further to
 * the front, or not at all any more. */
static int find_place(struct log *log, uint64_t file_bytes)
{
	cs_auto(cs_mem_freep) char *text = malloc(file_bytes + 1);
	const char *at, *found = NULL;

	if (!text)
		return -ENOMEM;
	log->offset = 0;
	if (cs_pread_full(log->fd, text, file_bytes, 0) < 0)
		return 0; /* it shrank again: from the front, then */
	at = log->tail_bytes ? text : NULL;
	while (at) {
		at = memmem(at, file_bytes - (size_t)(at - text), log->tail, log->tail_bytes);
		if (at)
			found = at++;
	}
	if (found)
		log->offset = (uint64_t)(found - text) + log->tail_bytes;
	return 0;
}

/* Show all that there is behind what was shown. */
static int show_new(struct log *log, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *chunk = malloc(CHUNK + 1);
	struct stat st;
	int r;

	if (!chunk || fstat(log->fd, &st) < 0)
		return cs_fail_errno(err, errno, "cannot read the log");
	if ((uint64_t)st.st_size < log->offset) {
		r = find_place(log, (uint64_t)st.st_size);
		if (r < 0)
			return cs_fail_errno(err, r, "cannot read the log");
	}
	for (;;) {
		ssize_t got = pread(log->fd, chunk, CHUNK, (off_t)log->offset);

		if (got < 0)
			return cs_fail_errno(err, errno, "cannot read the log");
		if (got == 0)
			return 0;
		log->offset += (uint64_t)got;
		remember(log, chunk, (size_t)got);
		r = log->clean ? show_clean(chunk, (size_t)got)
			       : cs_write_full(STDOUT_FILENO, chunk, (size_t)got);
		if (r < 0)
			return cs_fail_errno(err, r, "cannot write the output");
	}
}

/* ---- following ----------------------------------------------------------------------------- */

/* Until the guest ends; what it wrote last is shown too. */
static int follow(struct log *log, const struct cs_card *card, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int pidfd = cs_cmd_guest_pidfd(card);
	cs_auto(cs_fd_closep) int watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	struct pollfd polled[] = { { .fd = pidfd, .events = POLLIN },
				   { .fd = watch_fd, .events = POLLIN } };
	char path[40], events[4096];
	int r = 0;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", log->fd);
	if (watch_fd < 0 || inotify_add_watch(watch_fd, path, IN_MODIFY) < 0)
		return cs_fail_errno(err, errno, "cannot watch the log");
	while (r == 0 && pidfd >= 0 && !(polled[0].revents & POLLIN)) {
		r = show_new(log, err);
		if (r == 0 && poll(polled, 2, -1) < 0 && errno != EINTR)
			r = cs_fail_errno(err, errno, "cannot watch the log");
		while (read(watch_fd, events, sizeof(events)) > 0)
			;
	}
	return r < 0 ? r : show_new(log, err);
}

/* ---- the command --------------------------------------------------------------------------- */

struct logs_options {
	const char *guest;
	bool follow, monitor;
};

static const struct argp_option options[] = {
	{ "follow", 'f', NULL, 0, "Go on with what it writes, until it ends", 1 },
	{ "monitor", 'm', NULL, 0, "What its monitor wrote instead: why it could not go on", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct logs_options *o = state->input;

	switch (key) {
	case 'f':
		o->follow = true;
		return 0;
	case 'm':
		o->monitor = true;
		return 0;
	case ARGP_KEY_ARG:
		if (o->guest)
			argp_error(state, "one guest only");
		o->guest = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no guest given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int run(const struct cs_globals *globals, void *opts, struct cs_err *err)
{
	const struct logs_options *o = opts;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
	cs_auto(cs_fd_closep) int fd = -1;
	struct log log = { .clean = isatty(STDOUT_FILENO) };
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	r = cs_cmd_guest_open(store, o->guest, &guest, err);
	if (r < 0)
		return r;
	fd = openat(guest.dirfd, o->monitor ? "log" : "console.log",
		    O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT)
		return 0; /* it never ran */
	if (fd < 0)
		return cs_fail_errno(err, errno, "guest '%s': cannot open its log", o->guest);
	log.fd = fd;
	if (o->follow && guest.card->state == CS_GUEST_RUNNING)
		r = follow(&log, guest.card, err);
	else
		r = show_new(&log, err);
	return r < 0 ? cs_fail_in(err, r, "guest '%s'", o->guest) : 0;
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "GUEST",
	.doc = "Print what a guest wrote to its console. On a terminal, control characters are "
	       "shown as '?'.",
};

const struct cs_command cs_cmd_logs = {
	.name = "logs",
	.summary = "Print what a guest wrote to its console",
	.argp = &argp,
	.options_bytes = sizeof(struct logs_options),
	.run = run,
};

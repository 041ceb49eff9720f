/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* console: a terminal on the guest's console. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/own.h"
#include "vmm/cmd-spawner.h"
#include "vmm/command.h"
#include "vmm/control.h"

#define DETACH 0x1d /* Ctrl-] */

/* What goes to the guest waits here: a guest that does not read its console must not keep us from
 * hearing Ctrl-]. */
struct session {
	int console_fd, signal_fd;
	bool input; /* standard input is still open */
	bool done;
	char waiting[4096];
	size_t n;
};

static void raw_mode(struct termios *before)
{
	struct termios raw = *before;

	cfmakeraw(&raw);
	tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
}

static int take_input(struct session *s, struct cs_err *err)
{
	char *detach;
	ssize_t got = read(STDIN_FILENO, s->waiting + s->n, sizeof(s->waiting) - s->n);

	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (got < 0)
		return cs_fail_errno(err, errno, "cannot read standard input");
	if (got == 0) {
		s->input = false;
		s->done = !s->n;
		return 0;
	}
	detach = isatty(STDIN_FILENO) ? memchr(s->waiting + s->n, DETACH, (size_t)got) : NULL;
	if (detach) {
		s->done = true;
		return 0;
	}
	s->n += (size_t)got;
	return 0;
}

static int give_input(struct session *s, struct cs_err *err)
{
	ssize_t sent = send(s->console_fd, s->waiting, s->n, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent < 0 && errno != EAGAIN && errno != EINTR)
		return cs_fail_errno(err, errno, "the console is gone");
	if (sent <= 0)
		return 0;
	s->n -= (size_t)sent;
	memmove(s->waiting, s->waiting + sent, s->n);
	s->done = !s->n && !s->input;
	return 0;
}

static int take_output(struct session *s, struct cs_err *err)
{
	char chunk[4096];
	ssize_t got = recv(s->console_fd, chunk, sizeof(chunk), MSG_DONTWAIT);
	int r;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0) {
		s->done = true; /* the guest ended, or another console took our place */
		return 0;
	}
	r = cs_write_full(STDOUT_FILENO, chunk, (size_t)got);
	return r < 0 ? cs_fail_errno(err, r, "cannot write the console's output") : 0;
}

static int serve(struct session *s, struct cs_err *err)
{
	int r = 0;

	while (!s->done && r == 0) {
		struct pollfd polled[] = {
			{ .fd = s->signal_fd, .events = POLLIN },
			{ .fd = s->console_fd, .events = POLLIN },
			{ .fd = s->input && s->n < sizeof(s->waiting) ? STDIN_FILENO : -1,
			  .events = POLLIN },
		};

		if (s->n)
			polled[1].events |= POLLOUT;
		if (poll(polled, sizeof(polled) / sizeof(polled[0]), -1) < 0 && errno != EINTR)
			return cs_fail_errno(err, errno, "cannot wait for the console");
		if (polled[0].revents)
			return 0;
		if (polled[1].revents & POLLOUT)
			r = give_input(s, err);
		if (r == 0 && polled[1].revents & (POLLIN | POLLHUP | POLLERR))
			r = take_output(s, err);
		if (r == 0 && polled[2].revents)
			r = take_input(s, err);
	}
	return r;
}

/* The terminal gets its mode back on every way out: signals come by descriptor. */
static int attach(int console_fd, const char *guest, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int signal_fd = -1;
	struct session session = { .console_fd = console_fd, .input = true };
	struct termios before;
	bool terminal;
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (signal_fd < 0)
		return cs_fail_errno(err, errno, "cannot take signals");
	session.signal_fd = signal_fd;
	terminal = tcgetattr(STDIN_FILENO, &before) == 0;
	if (terminal) {
		fprintf(stderr, "console of '%s': Ctrl-] leaves it\n", guest);
		raw_mode(&before);
	}
	r = serve(&session, err);
	if (terminal) {
		tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
		fputc('\n', stderr);
	}
	return r;
}

struct console_options {
	const char *guest;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct console_options *o = state->input;

	switch (key) {
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
	const struct console_options *o = opts;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
	cs_auto(cs_fd_closep) int console_fd = -1;
	int r;

	cs_spawner_prepare();
	r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	r = cs_cmd_guest_awake(store, o->guest, &guest, err);
	if (r < 0)
		return r;
	r = cs_control_console(guest.dirfd, &console_fd, err);
	if (r < 0)
		return cs_fail_in(err, r, "guest '%s'", o->guest);
	return attach(console_fd, o->guest, err);
}

static const struct argp argp = {
	.parser = parse,
	.args_doc = "GUEST",
	.doc = "Attach this terminal to a guest's console, raw; Ctrl-] leaves it. Where input is "
	       "no "
	       "terminal, its end does. Whoever was attached before is detached.",
};

const struct cs_command cs_cmd_console = {
	.name = "console",
	.summary = "Attach to a guest's console",
	.argp = &argp,
	.options_bytes = sizeof(struct console_options),
	.run = run,
};

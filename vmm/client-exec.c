/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/client.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "store/base/own.h"
#include "store/base/text.h"
#include "vmm/client-private.h"
#include "vmm/client-terminal.h"
#include "vmm/message.h"

#define CREDIT_MAX  (1u << 30)
#define SIGPIPE_MS  1000u /* for the command to end by it, before we leave it alone */
#define SMALL_BYTES 1024u /* of signals and sizes behind a chunk of input */
#define HEAD_BYTES  sizeof(struct cs_wire_head)

enum { CONNECTION, INPUT, OUTPUT, SIGNALS, ITEMS }; /* of poll(2) */

struct session {
	const struct cs_exec_spec *spec;
	struct cs_err *err;
	int fd; /* to the agent */
	struct cs_terminal terminal;
	struct cs_signals signals;
	struct cs_sink out, diagnostics; /* stdout, stderr */

	/* From the guest: what is between (at) and (got) is not looked at yet. Payload of output
	 * goes on to (to) from there, (to_left) bytes of it. */
	char in[HEAD_BYTES + CS_WIRE_MAX];
	size_t at, got;
	struct cs_sink *to;
	size_t to_left;
	bool is_stuck; /* (to) takes nothing now */

	/* To the guest. */
	char sent[HEAD_BYTES + CS_WIRE_MAX + SMALL_BYTES];
	size_t sent_at, sent_end;
	bool is_closed; /* it takes nothing any more */
	bool has_input; /* end of it not reached */
	uint32_t credit;

	uint64_t deadline_ms; /* 0: none */
	bool is_over;
	int status;
};

static void session_freep(struct session **ptr)
{
	struct session *s = *ptr;

	if (!s)
		return;
	cs_terminal_close(&s->terminal);
	cs_sink_close(&s->out);
	cs_sink_close(&s->diagnostics);
	cs_signals_close(&s->signals);
	cs_fd_closep(&s->fd);
	free(s);
	*ptr = NULL;
}

static int went_away(struct session *s)
{
	return cs_fail(s->err, ECONNRESET,
		       "the guest went away before the command ended (it was stopped, or it "
		       "crashed: look at its log)");
}

/* ---- to the guest */

static void put(struct session *s, enum cs_wire_type type, const void *payload, size_t bytes)
{
	const struct cs_wire_head head = { htole32(type), htole32((uint32_t)bytes) };

	/* Dozens of signals wait already: one more makes no difference. */
	if (s->is_closed || HEAD_BYTES + bytes > sizeof(s->sent) - s->sent_end)
		return;
	memcpy(s->sent + s->sent_end, &head, HEAD_BYTES);
	if (bytes)
		memcpy(s->sent + s->sent_end + HEAD_BYTES, payload, bytes);
	s->sent_end += HEAD_BYTES + bytes;
}

static void put_signal(struct session *s, int number)
{
	const uint32_t value = htole32((uint32_t)number);

	put(s, CS_WIRE_SIGNAL, &value, sizeof(value));
}

static void put_size(struct session *s)
{
	struct cs_wire_size size = cs_terminal_size(s->spec->in_fd, s->spec->out_fd);

	size.rows = htole16(size.rows);
	size.columns = htole16(size.columns);
	put(s, CS_WIRE_RESIZE, &size, sizeof(size));
}

static void flush(struct session *s)
{
	ssize_t n;

	if (s->sent_at == s->sent_end)
		return;
	n = send(s->fd, s->sent + s->sent_at, s->sent_end - s->sent_at,
		 MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		/* The agent has finished: what it said before that is still to be read. */
		s->is_closed = true;
		s->has_input = false;
		s->sent_at = s->sent_end;
	}
	if (n > 0)
		s->sent_at += (size_t)n;
	if (s->sent_at == s->sent_end)
		s->sent_at = s->sent_end = 0;
}

/* A chunk of input, straight into the message. The buffer is empty, and there is credit. */
static void read_input(struct session *s)
{
	const size_t most = s->credit < CS_WIRE_MAX ? s->credit : CS_WIRE_MAX;
	struct cs_wire_head head = { .type = htole32(CS_WIRE_STDIN) };
	ssize_t n = read(s->spec->in_fd, s->sent + HEAD_BYTES, most);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* An error is the end too, as for cat: a terminal that hung up, a closed descriptor. */
	if (n <= 0)
		n = 0;
	s->has_input = n > 0;
	s->credit -= (uint32_t)n;
	head.bytes = htole32((uint32_t)n);
	memcpy(s->sent, &head, HEAD_BYTES);
	s->sent_end = HEAD_BYTES + (size_t)n;
	flush(s);
}

static void on_signal(struct session *s, int number)
{
	switch (number) {
	case 0:
		break;
	case SIGWINCH:
		put_size(s);
		break;
	case SIGTSTP: /* from elsewhere: ours is a byte in raw mode */
		cs_terminal_raw(&s->terminal, false);
		kill(getpid(), SIGSTOP);
		break;
	case SIGCONT: /* the shell has had the terminal meanwhile */
		cs_terminal_raw(&s->terminal, true);
		put_size(s);
		break;
	default:
		put_signal(s, number);
	}
}

/* ---- from the guest */

/* Nobody reads our output any more. */
static void on_closed_output(struct session *s, struct cs_sink *sink)
{
	sink->is_dead = true;
	if (sink == &s->out && !s->deadline_ms) {
		put_signal(s, SIGPIPE);
		s->status = 128 + SIGPIPE;
		s->deadline_ms = cs_client_now_ms() + SIGPIPE_MS;
	}
}

/* Pass output on. -errno: it can't be written. */
static int pass_on(struct session *s)
{
	size_t here = s->got - s->at < s->to_left ? s->got - s->at : s->to_left;

	s->is_stuck = false;
	while (here) {
		ssize_t n = cs_sink_write(s->to, s->in + s->at, here);

		if (n == -EPIPE || n == -ECONNRESET) {
			on_closed_output(s, s->to);
			continue;
		}
		if (n < 0)
			return cs_fail_errno(s->err, (int)-n, "cannot write the command's output");
		if (n == 0) {
			s->is_stuck = true;
			return 0;
		}
		here -= (size_t)n;
		s->at += (size_t)n;
		s->to_left -= (size_t)n;
	}
	return 0;
}

static uint32_t read_u32(const char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

static int on_fail(struct session *s, char *payload, size_t bytes)
{
	const uint32_t code = bytes >= 4 ? read_u32(payload) : 0;

	if (bytes < 5 || payload[bytes - 1] != '\0' || code == 0 || code > 4095)
		return cs_fail(s->err, EPROTO, "the guest's agent talks nonsense");
	return cs_fail(s->err, (int)code, "%s", cs_text_clean(payload + 4, false));
}

/* A whole message that is not output. */
static int on_message(struct session *s, uint32_t type, char *payload, size_t bytes)
{
	const uint32_t value = bytes == 4 ? read_u32(payload) : UINT32_MAX;

	if (type == CS_WIRE_FAIL)
		return on_fail(s, payload, bytes);
	if (type == CS_WIRE_STARTED && bytes == 4)
		return 0;
	if (type == CS_WIRE_CREDIT && bytes == 4) {
		s->credit = value < CREDIT_MAX - s->credit ? s->credit + value : CREDIT_MAX;
		return 0;
	}
	if (type == CS_WIRE_EXIT && bytes == 4 && value <= 255) {
		s->status = (int)value;
		s->is_over = true;
		return 0;
	}
	return cs_fail(s->err, EPROTO, "the guest's agent talks nonsense");
}

/* Handle what has come, up to output that is stuck. */
static int handle(struct session *s)
{
	while (!s->is_over) {
		uint32_t type, bytes;
		int r = 0;

		if (s->to_left) {
			r = pass_on(s);
			if (r < 0 || s->to_left)
				return r;
		}
		if (s->got - s->at < HEAD_BYTES)
			return 0;
		type = read_u32(s->in + s->at);
		bytes = read_u32(s->in + s->at + 4);
		if (bytes > CS_WIRE_MAX)
			return cs_fail(s->err, EPROTO, "the guest's agent talks nonsense");
		if (type == CS_WIRE_STDOUT || type == CS_WIRE_STDERR) {
			s->to = type == CS_WIRE_STDOUT ? &s->out : &s->diagnostics;
			s->to_left = bytes;
			s->at += HEAD_BYTES;
			continue;
		}
		if (s->got - s->at < HEAD_BYTES + bytes)
			return 0;
		r = on_message(s, type, s->in + s->at + HEAD_BYTES, bytes);
		if (r < 0)
			return r;
		s->at += HEAD_BYTES + bytes;
	}
	return 0;
}

static int receive(struct session *s)
{
	ssize_t n;

	/* A message is never larger than the buffer: after this there is room. */
	if (s->at) {
		memmove(s->in, s->in + s->at, s->got - s->at);
		s->got -= s->at;
		s->at = 0;
	}
	n = recv(s->fd, s->in + s->got, sizeof(s->in) - s->got, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return went_away(s);
	s->got += (size_t)n;
	return handle(s);
}

/* ---- the loop */

/* A descriptor for which nothing is wanted is left out: poll(2) would report its HUP for ever. */
static void want(struct pollfd *item, int fd, short events)
{
	*item = (struct pollfd){ .fd = events ? fd : -1, .events = events };
}

static int turn(struct session *s)
{
	const bool may_read = s->has_input && s->credit && s->sent_at == s->sent_end;
	struct pollfd item[ITEMS];
	int timeout = -1, r = 0;

	want(&item[CONNECTION], s->fd,
	     (short)((s->is_stuck ? 0 : POLLIN) | (s->sent_at < s->sent_end ? POLLOUT : 0)));
	want(&item[INPUT], s->spec->in_fd, may_read ? POLLIN : 0);
	want(&item[OUTPUT], s->is_stuck ? s->to->fd : -1, s->is_stuck ? POLLOUT : 0);
	want(&item[SIGNALS], s->signals.fd, POLLIN);
	if (s->deadline_ms) {
		uint64_t now = cs_client_now_ms();

		timeout = now < s->deadline_ms ? (int)(s->deadline_ms - now) : 0;
	}
	if (poll(item, ITEMS, timeout) < 0 && errno != EINTR)
		return cs_fail_errno(s->err, errno, "cannot wait for the command");

	if (item[SIGNALS].revents)
		on_signal(s, cs_signals_next(&s->signals));
	if (item[OUTPUT].revents)
		r = handle(s);
	if (r == 0 && !s->is_over && item[CONNECTION].revents & (POLLIN | POLLHUP | POLLERR) &&
	    !s->is_stuck)
		r = receive(s);
	if (item[INPUT].revents && s->sent_at == s->sent_end)
		read_input(s);
	else
		flush(s);
	if (r == 0 && s->deadline_ms && cs_client_now_ms() >= s->deadline_ms)
		s->is_over = true;
	return r;
}

/* Send EXEC. -E2BIG with words. */
static int start(struct session *s)
{
	const struct cs_exec_spec *spec = s->spec;
	cs_auto(cs_message_freep) struct cs_message *message = cs_message_create(CS_WIRE_EXEC);
	const struct cs_wire_size size = cs_terminal_size(spec->in_fd, spec->out_fd);
	const struct cs_wire_exec fixed = {
		.flags = htole32(spec->tty ? CS_WIRE_EXEC_TTY : 0u),
		.size = { htole16(size.rows), htole16(size.columns) },
	};
	const struct cs_patience patience = { UINT64_MAX, -1 };
	const void *at;
	size_t bytes;
	int r;

	if (!message)
		return cs_fail_errno(s->err, ENOMEM, "cannot start a command");
	cs_message_bytes(message, &fixed, sizeof(fixed));
	cs_message_string(message, spec->user);
	cs_message_string(message, spec->folder);
	cs_message_list(message, spec->argv);
	cs_message_list(message, spec->env);
	if (cs_message_end(message, &at, &bytes) < 0)
		return cs_fail(s->err, E2BIG,
			       "command and environment are over %u bytes (hand long ones to its "
			       "stdin, or in a file)",
			       CS_WIRE_MAX);
	r = cs_client_send(s->fd, at, bytes, &patience);
	return r < 0 ? went_away(s) : 0;
}

/* Connect, while signals may say that it takes too long. */
static int reach(struct session *s, int dirfd)
{
	const unsigned timeout_ms = s->spec->timeout_ms ? s->spec->timeout_ms : CS_EXEC_WAIT_MS;
	const struct cs_patience patience = { cs_client_now_ms() + timeout_ms, s->signals.fd };
	int r = cs_client_call(dirfd, CS_WIRE_AGENT_PORT, &patience, &s->fd, s->err);

	if (r == -EINTR)
		cs_signals_repeat(&s->signals);
	if (r == 0 || r == -EINTR)
		return r;
	/* Other codes are the guest's: a caller must not take "no such guest" for "no such
	 * command". */
	if (s->err)
		s->err->code = ENOTCONN;
	return -ENOTCONN;
}

int cs_client_exec(int dirfd, const struct cs_exec_spec *spec, int *ret_status, struct cs_err *err)
{
	cs_auto(session_freep) struct session *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return cs_fail_errno(err, ENOMEM, "cannot start a command");
	s->spec = spec;
	s->err = err;
	s->fd = s->terminal.fd = s->signals.fd = s->out.fd = s->diagnostics.fd = -1;
	s->credit = CS_WIRE_STDIN_CREDIT;
	s->has_input = spec->in_fd >= 0;

	r = cs_signals_open(&s->signals);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot take signals");
	r = reach(s, dirfd);
	if (r == 0)
		r = start(s);
	if (r < 0)
		return r;
	if (!s->has_input)
		put(s, CS_WIRE_STDIN, NULL, 0);

	cs_sink_open(&s->out, spec->out_fd);
	cs_sink_open(&s->diagnostics, spec->err_fd);
	if (spec->tty) {
		r = cs_signals_add_terminal(&s->signals);
		if (r < 0)
			return cs_fail_errno(err, -r, "cannot take signals");
		cs_terminal_open(&s->terminal, spec->in_fd);
	}
	while (r == 0 && !s->is_over)
		r = turn(s);
	if (r < 0)
		return r;
	*ret_status = s->status;
	return 0;
}

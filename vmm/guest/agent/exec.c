/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/guest/agent/exec.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "vmm/guest/agent/kernel.h"
#include "vmm/guest/agent/spawn.h"

/* ---- input ---- */

/* (bytes) to the process; how many it took. What it does not want any more counts as taken: the
 * host is to get rid of its input, and sees the end by EXIT. */
static size_t input_write(struct cs_agent *a, struct cs_exec *e, const uint8_t *data, size_t bytes)
{
	ssize_t n = write(e->in.fd, data, bytes);

	if (n >= 0) {
		e->owed += (uint32_t)n;
		return (size_t)n;
	}
	if (errno == EAGAIN || errno == EINTR)
		return 0;

	e->owed += (uint32_t)bytes;
	cs_queue_clear(&e->input);
	cs_watch_close(a, &e->in);
	return bytes;
}

static void input_finish(struct cs_agent *a, struct cs_exec *e)
{
	struct termios modes;

	if (!e->input_end || cs_queue_bytes(&e->input) || e->in.fd < 0)
		return;

	/* A terminal has no end of its own: what ends a line of input there is a character. */
	if (e->terminal && !tcgetattr(e->in.fd, &modes) && (modes.c_lflag & ICANON))
		input_write(a, e, &modes.c_cc[VEOF], 1);
	cs_watch_close(a, &e->in);
}

/* Let the host send as much again as has been taken, in portions. What has been granted, what waits
 * here and (owed) add up to the window, so the host can never be left without credit. */
static void grant(struct cs_agent *a, struct cs_conn *c)
{
	struct cs_exec *e = &c->exec;
	uint32_t credit = e->owed;

	if (e->input_end || e->owed < e->window / 4)
		return;

	if (e->window == CS_EXEC_WINDOW && a->n_conns <= CS_EXEC_BIG_MAX && !e->terminal) {
		/* Fewer and larger steps: each costs two trips through the guest's kernel. */
		fcntl(e->in.fd, F_SETPIPE_SZ, CS_EXEC_WINDOW_BIG);
		e->window = CS_EXEC_WINDOW_BIG;
		credit += CS_EXEC_WINDOW_BIG - CS_EXEC_WINDOW;
	}

	e->owed = 0;
	e->credit += credit;
	credit = htole32(credit);
	cs_conn_send(a, c, CS_WIRE_CREDIT, &credit, sizeof(credit));
}

void cs_exec_input(struct cs_agent *a, struct cs_conn *c, const uint8_t *data, uint32_t bytes)
{
	struct cs_exec *e = &c->exec;
	size_t taken = 0;

	if (e->in.fd < 0) {
		e->owed += bytes;
		grant(a, c);
		return;
	}

	if (!cs_queue_bytes(&e->input))
		taken = input_write(a, e, data, bytes);
	if (taken < bytes && cs_queue_put(&e->input, data + taken, bytes - taken) < 0) {
		cs_exec_abandon(a, c);
		return;
	}
	grant(a, c);
}

void cs_exec_input_end(struct cs_agent *a, struct cs_conn *c)
{
	c->exec.input_end = true;
	input_finish(a, &c->exec);
}

static void input_ready(struct cs_agent *a, struct cs_watch *w, uint32_t events)
{
	struct cs_conn *c = w->owner;
	struct cs_exec *e = &c->exec;
	size_t n = input_write(a, e, cs_queue_at(&e->input), cs_queue_bytes(&e->input));

	if (e->in.fd >= 0) {
		cs_queue_drop(&e->input, n);
		input_finish(a, e);
	}
	grant(a, c);
	cs_conn_arm(a, c);
}

/* ---- output and the end ---- */

static void finish(struct cs_agent *a, struct cs_conn *c)
{
	struct cs_exec *e = &c->exec;
	uint32_t status = htole32(e->status);

	if (!e->ended || e->out.fd >= 0 || e->err.fd >= 0 || c->closing)
		return;

	cs_deadline_set(a, &c->deadline, 0);
	cs_conn_send(a, c, CS_WIRE_EXIT, &status, sizeof(status));
	c->closing = true;
}

/* When it has been silent for long enough, or has talked for too long. */
static uint64_t silence(const struct cs_exec *e, uint64_t now)
{
	uint64_t at = now + CS_EXEC_SILENCE_MS;

	return now < e->linger_until && at > e->linger_until ? e->linger_until : at;
}

static void output_ready(struct cs_agent *a, struct cs_watch *w, uint32_t events)
{
	struct cs_conn *c = w->owner;
	struct cs_exec *e = &c->exec;
	uint32_t *last = w == &e->err ? &e->last_err : &e->last_out;
	size_t want = e->last_call && *last < CS_WIRE_MAX ? *last : CS_WIRE_MAX;
	ssize_t n = read(w->fd, a->scratch + CS_HEAD_BYTES, want);

	if (n > 0) {
		*last -= e->last_call ? (uint32_t)n : 0;
		if (n == CS_WIRE_MAX && !e->big_pipe && !e->terminal) {
			e->big_pipe = true;
			fcntl(w->fd, F_SETPIPE_SZ, CS_EXEC_WINDOW_BIG);
		}
		if (e->ended && !e->last_call)
			cs_deadline_set(a, &c->deadline, silence(e, cs_agent_now()));
		cs_conn_send_scratch(a, c, w == &e->err ? CS_WIRE_STDERR : CS_WIRE_STDOUT,
				     (uint32_t)n);
	}

	/* A terminal whose last user has gone answers EIO. */
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || (e->last_call && !*last))
		cs_watch_close(a, w);

	finish(a, c);
	cs_conn_arm(a, c);
}

static void keep_no_more(struct cs_exec *e)
{
	if (e->keep >= 0)
		close(e->keep);
	e->keep = -1;
}

void cs_exec_ended(struct cs_agent *a, struct cs_conn *c, uint32_t status)
{
	struct cs_exec *e = &c->exec;
	uint64_t now = cs_agent_now();

	e->ended = true;
	e->status = status;
	keep_no_more(e);
	if (c->socket.fd < 0) {
		cs_conn_close(a, c);
		return;
	}

	/* Usually its pipes end in this same round, and the deadline is never waited for. */
	e->linger_until = now + CS_EXEC_LINGER_MS;
	cs_deadline_set(a, &c->deadline, now + CS_EXEC_SILENCE_MS);
	finish(a, c);
	cs_conn_arm(a, c);
}

static uint32_t waiting(const struct cs_watch *w)
{
	int n = 0;

	if (w->fd < 0 || ioctl(w->fd, FIONREAD, &n) < 0 || n < 0)
		return 0;
	return (uint32_t)n;
}

void cs_exec_expire(struct cs_agent *a, struct cs_conn *c, uint64_t now)
{
	struct cs_exec *e = &c->exec;
	uint32_t out, err;

	cs_deadline_set(a, &c->deadline, 0);
	if (!e->ended) {
		cs_exec_kill(c);
		return;
	}

	out = waiting(&e->out);
	err = waiting(&e->err);
	if (now >= e->linger_until || (!out && !err)) {
		/* What is in the pipes now is the last that is read: it includes everything the
		 * process itself has written. */
		e->last_call = true;
		e->last_out = out;
		e->last_err = err;
		if (!out)
			cs_watch_close(a, &e->out);
		if (!err)
			cs_watch_close(a, &e->err);
	} else {
		cs_deadline_set(a, &c->deadline, now + CS_EXEC_SILENCE_MS);
	}

	finish(a, c);
	cs_conn_arm(a, c);
}

void cs_exec_arm(struct cs_agent *a, struct cs_conn *c)
{
	struct cs_exec *e = &c->exec;
	uint32_t read_now = cs_queue_bytes(&c->out) ? 0 : EPOLLIN;

	if (!e->pid)
		return;
	if (cs_watch_set(a, &e->out, read_now) < 0 || cs_watch_set(a, &e->err, read_now) < 0 ||
	    cs_watch_set(a, &e->in, cs_queue_bytes(&e->input) ? EPOLLOUT : 0) < 0)
		cs_exec_abandon(a, c);
}

void cs_exec_free(struct cs_agent *a, struct cs_conn *c)
{
	struct cs_exec *e = &c->exec;

	cs_watch_close(a, &e->in);
	cs_watch_close(a, &e->out);
	cs_watch_close(a, &e->err);
	keep_no_more(e);
	cs_queue_clear(&e->input);
}

void cs_exec_kill(const struct cs_conn *c)
{
	if (c->exec.pid && !c->exec.ended)
		kill(-c->exec.pid, SIGKILL);
}

void cs_exec_abandon(struct cs_agent *a, struct cs_conn *c)
{
	struct cs_exec *e = &c->exec;

	if (e->ended) {
		cs_conn_close(a, c);
		return;
	}

	cs_watch_close(a, &c->socket);
	cs_queue_clear(&c->held);
	cs_queue_clear(&c->out);
	/* Closing a terminal sends the signal; a second one would hit whatever the process starts
	 * to clean up. */
	if (e->terminal) {
		cs_exec_free(a, c);
		return;
	}

	/* What it still says is thrown away: with its pipes closed SIGPIPE would end it before it
	 * has cleaned up. */
	cs_queue_clear(&e->input);
	cs_watch_close(a, &e->in);
	cs_watch_set(a, &e->out, EPOLLIN);
	cs_watch_set(a, &e->err, EPOLLIN);
	kill(-e->pid, SIGHUP);
	kill(-e->pid, SIGCONT);
	cs_deadline_set(a, &c->deadline, cs_agent_now() + CS_EXEC_KILL_MS);
}

/* ---- the host's other wishes ---- */

bool cs_exec_signal(struct cs_conn *c, uint32_t signal)
{
	if (!c->exec.pid || !signal || signal > 64)
		return false;

	/* Once it has been reaped its number may be another's. */
	if (!c->exec.ended)
		kill(-c->exec.pid, (int)signal);
	return true;
}

void cs_exec_resize(struct cs_conn *c, struct cs_wire_size size)
{
	struct winsize w = { .ws_row = le16toh(size.rows), .ws_col = le16toh(size.columns) };

	if (c->exec.terminal && c->exec.out.fd >= 0)
		ioctl(c->exec.out.fd, TIOCSWINSZ, &w);
}

/* ---- the start ---- */

/* Our ends and the process's (child[]). 0 or -errno; the caller closes child[]. */
static int open_pipes(struct cs_exec *e, int child[3])
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	child[0] = p[0];
	e->in.fd = p[1];
	/* Ours only: the process must find an ordinary pipe. Reading needs no such thing, it is
	 * done when there is something. */
	if (fcntl(e->in.fd, F_SETFL, O_NONBLOCK) < 0)
		return -errno;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	e->out.fd = p[0];
	child[1] = p[1];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	e->err.fd = p[0];
	child[2] = p[1];
	return 0;
}

/* The same; child[] is only lent from e->keep. */
static int open_terminal(struct cs_exec *e, struct cs_wire_size size, uint32_t uid, int child[3])
{
	struct winsize w = { .ws_row = le16toh(size.rows), .ws_col = le16toh(size.columns) };
	int unlock = 0;

	e->out.fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (e->out.fd < 0 || ioctl(e->out.fd, TIOCSPTLCK, &unlock) < 0)
		return -errno;
	e->keep = ioctl(e->out.fd, CS_TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (e->keep < 0)
		return -errno;

	child[0] = child[1] = child[2] = e->keep;
	e->in.fd = fcntl(e->out.fd, F_DUPFD_CLOEXEC, 3);
	if (e->in.fd < 0)
		return -errno;

	e->terminal = true;
	if (w.ws_row || w.ws_col)
		ioctl(e->out.fd, TIOCSWINSZ, &w);
	/* It is root's until then, and a program that opens /dev/tty by name would fail. */
	if (uid && fchown(child[0], uid, (gid_t)-1) < 0)
		return -errno;
	return 0;
}

static void start(struct cs_agent *a, struct cs_conn *c, struct cs_spawn *s,
		  struct cs_wire_exec head)
{
	struct cs_exec *e = &c->exec;
	int child[3] = { -1, -1, -1 };
	pid_t pid = -1;
	uint32_t tell;
	int r;

	e->in = (struct cs_watch){ .fd = -1, .ready = input_ready, .owner = c };
	e->out = (struct cs_watch){ .fd = -1, .ready = output_ready, .owner = c };
	e->err = (struct cs_watch){ .fd = -1, .ready = output_ready, .owner = c };
	s->terminal = head.flags & CS_WIRE_EXEC_TTY;
	r = s->terminal ? open_terminal(e, head.size, s->user.uid, child) : open_pipes(e, child);
	if (r == 0) {
		memcpy(s->fd, child, sizeof(child));
		pid = cs_spawn_run(a, s);
	} else {
		s->error = -r;
		snprintf(s->words, sizeof(s->words), "no %s in the guest: %s",
			 s->terminal ? "terminal" : "pipe", strerror(-r));
	}

	for (int i = 0; i < 3; i++) {
		if (child[i] >= 0 && !s->terminal)
			close(child[i]);
	}
	if (pid <= 0) {
		cs_exec_free(a, c);
		cs_conn_fail(a, c, s->error, s->words);
		return;
	}

	e->pid = pid;
	e->window = e->credit = CS_EXEC_WINDOW;
	tell = htole32((uint32_t)pid);
	cs_conn_send(a, c, CS_WIRE_STARTED, &tell, sizeof(tell));
}

/* Why it cannot even be tried; NULL: it can. */
static const char *refuse(struct cs_agent *a, const struct cs_spawn *s, uint32_t flags, int *error)
{
	static const char *const words[] = { "the guest is shutting down", "no command",
					     "unknown kind of exec (is the guest older?)" };
	const int code[] = { ESHUTDOWN, EINVAL, EOPNOTSUPP };
	const bool is[] = { a->stop.phase != CS_STOP_NONE, !s->argv[0],
			    (flags & ~(uint32_t)CS_WIRE_EXEC_TTY) != 0 };

	for (size_t i = 0; i < 3; i++) {
		if (is[i]) {
			*error = code[i];
			return words[i];
		}
	}

	return NULL;
}

bool cs_exec_start(struct cs_agent *a, struct cs_conn *c, struct cs_reader *r)
{
	struct cs_wire_exec head;
	struct cs_spawn s = { 0 };
	const char *user, *no;
	char **argv, **env;
	int error = 0, found;
	bool whole;

	cs_reader_bytes(r, &head, sizeof(head));
	head.flags = le32toh(head.flags);
	user = cs_reader_string(r);
	s.folder = cs_reader_string(r);
	s.argv = argv = cs_reader_list(r);
	s.env = env = cs_reader_list(r);
	whole = cs_reader_done(r);

	if (whole) {
		no = refuse(a, &s, head.flags, &error);
		found = no ? 0 : cs_user_load(user, &s.user);
		if (found < 0) {
			error = -found;
			snprintf(s.words, sizeof(s.words), "user %.100s: %s", user,
				 found == -EINVAL  ? "not a user (NAME, UID, NAME:GROUP)"
				 : found == -ESRCH ? "no such group in the guest"
						   : "no such user in the guest");
			no = s.words;
		}
		if (no)
			cs_conn_fail(a, c, error, no);
		else
			start(a, c, &s, head);
	}

	free(argv);
	free(env);
	return whole;
}

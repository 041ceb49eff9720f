/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/client-terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/base/own.h"

/* ---- the terminal */

void cs_terminal_raw(struct cs_terminal *terminal, bool raw)
{
	struct termios mode = terminal->saved;
	sigset_t ttou, saved;

	if (terminal->fd < 0)
		return;
	if (raw)
		cfmakeraw(&mode);
	/* Giving the terminal back must not stop us, even in the background (tcsetattr(3)). */
	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	if (!raw)
		pthread_sigmask(SIG_BLOCK, &ttou, &saved);
	tcsetattr(terminal->fd, TCSANOW, &mode);
	if (!raw)
		pthread_sigmask(SIG_SETMASK, &saved, NULL);
	terminal->is_raw = raw;
}

void cs_terminal_open(struct cs_terminal *terminal, int fd)
{
	terminal->fd = -1;
	terminal->is_raw = false;
	if (fd < 0 || tcgetattr(fd, &terminal->saved) < 0)
		return;
	terminal->fd = fd;
	cs_terminal_raw(terminal, true);
}

void cs_terminal_close(struct cs_terminal *terminal)
{
	if (terminal->is_raw)
		cs_terminal_raw(terminal, false);
	terminal->fd = -1;
}

struct cs_wire_size cs_terminal_size(int fd, int other_fd)
{
	struct cs_wire_size size = { 0 };
	struct winsize window;

	if (ioctl(fd, TIOCGWINSZ, &window) == 0 || ioctl(other_fd, TIOCGWINSZ, &window) == 0) {
		size.rows = window.ws_row;
		size.columns = window.ws_col;
	}
	return size;
}

/* ---- signals */

/* A program under nohup, or in the background of a script, was told to ignore some. A blocked
 * signal is kept all the same, so it would come through the signalfd. */
static bool is_ignored(int number)
{
	struct sigaction now;

	return sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

static int take(struct cs_signals *signals)
{
	int fd = signalfd(signals->fd, &signals->taken, SFD_CLOEXEC | SFD_NONBLOCK);

	if (fd < 0)
		return -errno;
	signals->fd = fd;
	pthread_sigmask(SIG_BLOCK, &signals->taken, NULL);
	return 0;
}

int cs_signals_open(struct cs_signals *signals)
{
	static const int always[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	sigset_t sigpipe, pending;
	int r;

	*signals = (struct cs_signals){ .fd = -1 };
	sigemptyset(&signals->taken);
	for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++) {
		if (!is_ignored(always[i]))
			sigaddset(&signals->taken, always[i]);
	}
	sigemptyset(&pending);
	sigpending(&pending);
	signals->had_sigpipe = sigismember(&pending, SIGPIPE) == 1;
	sigemptyset(&sigpipe);
	sigaddset(&sigpipe, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &sigpipe, &signals->saved);
	signals->is_open = true;
	r = take(signals);
	if (r < 0)
		cs_signals_close(signals);
	return r;
}

int cs_signals_add_terminal(struct cs_signals *signals)
{
	static const int more[] = { SIGWINCH, SIGTSTP, SIGCONT };

	for (size_t i = 0; i < sizeof(more) / sizeof(more[0]); i++)
		sigaddset(&signals->taken, more[i]);
	return take(signals);
}

int cs_signals_next(struct cs_signals *signals)
{
	struct signalfd_siginfo info;

	if (read(signals->fd, &info, sizeof(info)) != sizeof(info))
		return 0;
	return (int)info.ssi_signo;
}

void cs_signals_repeat(struct cs_signals *signals)
{
	const int number = cs_signals_next(signals);

	if (number)
		kill(getpid(), number); /* blocked: it waits */
}

void cs_signals_close(struct cs_signals *signals)
{
	const struct timespec now = { 0 };
	sigset_t sigpipe;

	if (!signals->is_open)
		return;
	/* The one that our own writes left behind would kill us now. */
	sigemptyset(&sigpipe);
	sigaddset(&sigpipe, SIGPIPE);
	while (!signals->had_sigpipe && sigtimedwait(&sigpipe, NULL, &now) == SIGPIPE)
		;
	pthread_sigmask(SIG_SETMASK, &signals->saved, NULL);
	cs_fd_closep(&signals->fd);
	signals->is_open = false;
}

/* ---- output */

void cs_sink_open(struct cs_sink *sink, int fd)
{
	char path[32];
	struct stat st;
	int own;

	*sink = (struct cs_sink){ .fd = fd, .kind = CS_SINK_SHARED, .is_dead = fd < 0 };
	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
		sink->kind = CS_SINK_FILE;
	if (S_ISSOCK(st.st_mode))
		sink->kind = CS_SINK_SOCKET;
	if (!S_ISFIFO(st.st_mode) && !S_ISCHR(st.st_mode))
		return;

	/* O_NONBLOCK belongs to the open file, which the shell and others have too; so a pipe or a
	 * terminal is opened once more. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	own = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (own < 0)
		return;
	sink->fd = own;
	sink->kind = CS_SINK_OWN;
}

static ssize_t write_piece(const struct cs_sink *sink, const void *data, size_t bytes)
{
	struct pollfd item = { .fd = sink->fd, .events = POLLOUT };

	switch (sink->kind) {
	case CS_SINK_SOCKET:
		return send(sink->fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
	case CS_SINK_SHARED:
		/* A pipe that is writable takes PIPE_BUF without blocking (pipe(7)). */
		if (poll(&item, 1, 0) == 0) {
			errno = EAGAIN;
			return -1;
		}
		return write(sink->fd, data, bytes < PIPE_BUF ? bytes : PIPE_BUF);
	default:
		return write(sink->fd, data, bytes);
	}
}

ssize_t cs_sink_write(struct cs_sink *sink, const void *data, size_t bytes)
{
	ssize_t n;

	if (sink->is_dead)
		return (ssize_t)bytes;
	n = write_piece(sink, data, bytes);
	if (n >= 0)
		return n;
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

void cs_sink_close(struct cs_sink *sink)
{
	if (sink->kind == CS_SINK_OWN)
		cs_fd_closep(&sink->fd);
	sink->fd = -1;
}

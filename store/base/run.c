/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/own.h"
#include "store/base/text.h"

/* The last line of output that is not blank. */
struct tail {
	char line[256], last[256];
	size_t used;
};

static void tail_end(struct tail *tail)
{
	while (tail->used && strchr(" \t", tail->line[tail->used - 1]))
		tail->used--;
	if (tail->used) {
		tail->line[tail->used] = '\0';
		memcpy(tail->last, tail->line, tail->used + 1);
	}
	tail->used = 0;
}

static void tail_push(struct tail *tail, const char *data, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		if (data[i] == '\n' || data[i] == '\r')
			tail_end(tail);
		else if (data[i] && tail->used + 1 < sizeof(tail->line))
			tail->line[tail->used++] = data[i];
	}
}

/* Out of the way of stdin, stdout and stderr, in case we were started without them. */
static int lift(int fd)
{
	return fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
}

/* In the child: become the program, or tell (report_fd) why not. Only async-signal-safe calls: the
 * parent may have threads. */
static void become(const char *const argv[], int out_fd, int report_fd, pid_t parent)
{
	sigset_t none;
	int in_fd, error;

	out_fd = lift(out_fd);
	report_fd = lift(report_fd);
	in_fd = lift(open("/dev/null", O_RDONLY | O_CLOEXEC));
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(127); /* the parent died before it could take us along */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (dup2(in_fd, STDIN_FILENO) >= 0 && dup2(out_fd, STDOUT_FILENO) >= 0 &&
	    dup2(out_fd, STDERR_FILENO) >= 0)
		execvp(argv[0], (char *const *)argv);
	error = errno;
	cs_write_full(report_fd, &error, sizeof(error));
	_exit(127);
}

/* Take in what is in the pipe; false at its end. */
static bool drain(int fd, struct tail *tail)
{
	char buf[4096];
	ssize_t n;

	for (;;) {
		n = read(fd, buf, sizeof(buf));
		if (n > 0)
			tail_push(tail, buf, (size_t)n);
		else if (n == 0 || (errno != EINTR && errno != EAGAIN))
			return false;
		else if (errno == EAGAIN)
			return true;
	}
}

/* Until the program itself ends: what it left running may hold the pipe open for ever. */
static void collect(pid_t pid, int fd, struct tail *tail)
{
	cs_auto(cs_fd_closep) int pidfd = pidfd_open(pid, 0);
	struct pollfd polled[] = {
		{ .fd = pidfd, .events = POLLIN },
		{ .fd = fd, .events = POLLIN },
	};

	while (poll(polled, 2, -1) >= 0 || errno == EINTR) {
		if (polled[1].revents && !drain(fd, tail)) {
			polled[1].fd = -1;
			if (pidfd < 0)
				break;
		}
		if (polled[0].revents)
			break;
		polled[0].revents = polled[1].revents = 0;
	}
	drain(fd, tail);
	tail_end(tail);
	cs_text_clean(tail->last, false);
}

static int judge(const char *program, int status, const struct tail *tail, struct cs_err *err)
{
	const char *colon = tail->last[0] ? ": " : "";

	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFSIGNALED(status))
		return cs_fail(err, EIO, "%s: killed by signal %d (%s)%s%s", program,
			       WTERMSIG(status), sigdescr_np(WTERMSIG(status)) ?: "unknown", colon,
			       tail->last);
	return cs_fail(err, EIO, "%s: failed with exit status %d%s%s", program, WEXITSTATUS(status),
		       colon, tail->last);
}

int cs_run(const char *const argv[], const char *package, struct cs_err *err)
{
	int out[2] = { -1, -1 }, report[2] = { -1, -1 }, status = 0, error = 0;
	struct tail tail = { .used = 0 };
	pid_t parent = getpid(), pid;

	if (pipe2(out, O_CLOEXEC) < 0)
		return cs_fail_errno(err, errno, "cannot run %s", argv[0]);
	cs_auto(cs_fd_closep) int out_read = out[0], out_write = out[1];
	if (pipe2(report, O_CLOEXEC) < 0)
		return cs_fail_errno(err, errno, "cannot run %s", argv[0]);
	cs_auto(cs_fd_closep) int report_read = report[0], report_write = report[1];

	if (fcntl(out_read, F_SETFL, O_NONBLOCK) < 0)
		return cs_fail_errno(err, errno, "cannot run %s", argv[0]);
	pid = fork();
	if (pid < 0)
		return cs_fail_errno(err, errno, "cannot run %s", argv[0]);
	if (pid == 0)
		become(argv, out_write, report_write, parent);

	cs_fd_closep(&out_write);
	cs_fd_closep(&report_write);
	if (cs_read_full(report_read, &error, sizeof(error)) < 0)
		error = 0; /* closed by the exec: it runs */
	collect(pid, out_read, &tail);
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return cs_fail_errno(err, errno, "cannot wait for %s", argv[0]);
	}
	if (error == ENOENT && package)
		return cs_fail(err, ENOENT, "%s: no such program (apt-get install %s)", argv[0],
			       package);
	if (error)
		return cs_fail_errno(err, error, "cannot run %s", argv[0]);
	return judge(argv[0], status, &tail, err);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/guest/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/guest/agent/exec.h"
#include "vmm/guest/agent/file.h"
#include "vmm/guest/agent/kernel.h"

/* ---- words ---- */

static void say_line(const char *words)
{
	char line[400];
	int n = snprintf(line, sizeof(line), "clearstore-agent: %s\n", words);

	if (n >= (int)sizeof(line))
		line[sizeof(line) - 2] = '\n';
	cs_file_write_all(STDERR_FILENO, line, strlen(line));
}

void cs_agent_say(struct cs_agent *a, const char *fmt, ...)
{
	char words[300];
	va_list args;

	va_start(args, fmt);
	vsnprintf(words, sizeof(words), fmt, args);
	va_end(args);
	say_line(words);
}

void cs_agent_trouble(struct cs_agent *a, const char *fmt, ...)
{
	char words[300];
	va_list args;

	va_start(args, fmt);
	vsnprintf(words, sizeof(words), fmt, args);
	va_end(args);
	say_line(words);
	cs_control_send(a, CS_WIRE_TROUBLE, words, strlen(words) + 1);
}

void cs_agent_die(struct cs_agent *a, const char *fmt, ...)
{
	char words[300];
	va_list args;

	va_start(args, fmt);
	vsnprintf(words, sizeof(words), fmt, args);
	va_end(args);
	say_line(words);
	if (a->role == CS_ROLE_TEST)
		_exit(1);

	cs_control_send(a, CS_WIRE_TROUBLE, words, strlen(words) + 1);
	cs_stop_finish(a);
}

/* A fault of our own. The state may be broken, so nothing of it is used. */
static void on_fault(int signal)
{
	static const char words[] = "clearstore-agent: fault in PID 1, powering off\n";

	cs_file_write_all(STDERR_FILENO, words, sizeof(words) - 1);
	if (getpid() == 1) {
		sync();
		reboot(RB_POWER_OFF);
	}
	_exit(128 + signal);
}

/* ---- what has happened ---- */

void cs_agent_reap(struct cs_agent *a)
{
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);
		uint32_t code;

		a->childless = pid < 0 && errno == ECHILD;
		if (pid <= 0)
			break;

		code = WIFSIGNALED(status) ? 128 + (uint32_t)WTERMSIG(status)
					   : (uint32_t)WEXITSTATUS(status);
		if (!cs_command_ended(a, pid, code))
			cs_service_ended(a, pid, code);
	}

	if (a->stop.phase != CS_STOP_NONE)
		cs_stop_step(a, cs_agent_now());
}

static void signals_ready(struct cs_agent *a, struct cs_watch *w, uint32_t events)
{
	struct signalfd_siginfo info;

	if (read(w->fd, &info, sizeof(info)) != sizeof(info))
		return;

	/* COMMAND's end is the guest's: not in the middle of a picture. */
	if (info.ssi_signo == SIGCHLD && a->freezer.state == CS_FREEZER_ON)
		a->freezer.ended = true;
	else if (info.ssi_signo == SIGCHLD)
		cs_agent_reap(a);
	else
		cs_stop_signal(a, info.ssi_signo, info.ssi_pid);
}

int cs_agent_prepare(struct cs_agent *a)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	const struct rlimit files = { 4096, 524288 };
	/* As on any distribution. */
	const uint64_t child_files[2] = { 1024, 524288 };
	struct sigaction fault = { .sa_handler = on_fault, .sa_flags = (int)SA_RESETHAND };
	sigset_t all;

	/* All are blocked and read from one descriptor, SIGPIPE among them: writing to a closed
	 * pipe is then an error like any other, and no child inherits an ignored signal. */
	sigfillset(&all);
	for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++) {
		sigdelset(&all, faults[i]);
		if (a->role != CS_ROLE_TEST)
			sigaction(faults[i], &fault, NULL);
	}
	sigprocmask(SIG_SETMASK, &all, NULL);
	sigdelset(&all, SIGPIPE);

	/* Four descriptors for each exec. Refused to a test without the privilege: fewer at once.
	 */
	if (!setrlimit(RLIMIT_NOFILE, &files))
		memcpy(a->child_files, child_files, sizeof(child_files));

	a->epoll = epoll_create1(EPOLL_CLOEXEC);
	a->signals =
		(struct cs_watch){ .fd = signalfd(-1, &all, SFD_CLOEXEC), .ready = signals_ready };
	if (a->epoll < 0 || a->signals.fd < 0)
		return -errno;
	return cs_watch_set(a, &a->signals, EPOLLIN);
}

/* How long the loop may sleep: for ever, unless something is to end. */
static int sleep_ms(struct cs_agent *a)
{
	uint64_t next, now;

	if (!a->deadlines)
		return -1;

	next = cs_service_next(a);
	if (a->stop.deadline.at_ms && a->stop.deadline.at_ms < next)
		next = a->stop.deadline.at_ms;
	if (a->freezer.patience.at_ms && a->freezer.patience.at_ms < next)
		next = a->freezer.patience.at_ms;
	now = cs_agent_now();
	return next <= now ? 0 : next - now > 60000 ? 60000 : (int)(next - now);
}

static void expire(struct cs_agent *a)
{
	uint64_t now = cs_agent_now();

	cs_service_expire(a, now);
	if (cs_deadline_over(&a->freezer.patience, now))
		cs_freezer_expire(a);
	if (cs_deadline_over(&a->stop.deadline, now))
		cs_stop_step(a, now);
}

static void bury(struct cs_agent *a)
{
	while (a->dead) {
		struct cs_conn *c = a->dead;

		a->dead = c->next;
		cs_conn_free(c);
	}
}

/* When the guest has been restored all its connections have ended. That of the monitor first: the
 * others' processes are frozen, and whoever waits for the guest waits for this. */
static void control_first(struct cs_agent *a, struct epoll_event *events, int n)
{
	for (int i = 1; i < n; i++) {
		if (events[i].data.ptr == &a->control) {
			struct epoll_event first = events[i];

			events[i] = events[0];
			events[0] = first;
			return;
		}
	}
}

void cs_agent_loop(struct cs_agent *a)
{
	while (!a->over) {
		struct epoll_event events[32];
		int n = epoll_wait(a->epoll, events, 32, sleep_ms(a));

		if (n < 0 && errno != EINTR)
			cs_agent_die(a, "epoll: %s", strerror(errno));

		control_first(a, events, n);
		for (int i = 0; i < n; i++) {
			struct cs_watch *w = events[i].data.ptr;

			/* It may have been closed by what came before it in this round. */
			if (w->fd >= 0)
				w->ready(a, w, events[i].events);
		}
		if (a->control_broken)
			cs_control_check(a);
		if (a->deadlines)
			expire(a);
		bury(a);
	}
}

/* ---- the entry ---- */

/* tests/agent, with a monitor too: --serve-unix PATH MONITOR CGROUP ("": by signals). */
static void find_monitor(struct cs_agent *a, char **paths)
{
	int r;

	a->monitor = paths[0];
	r = *paths[1] ? cs_freezer_open(a, paths[1], false) : 0;
	if (r == 0)
		r = cs_control_open(a);
	if (r < 0)
		cs_agent_die(a, "cannot serve %s: %s", paths[0], strerror(-r));
	cs_identity_seed(a);
}

/* tests/agent: as an ordinary process, the service on a unix socket. Grants nothing that whoever
 * starts it could not do anyway. */
static int serve_unix(struct cs_agent *a, char **paths, bool monitor)
{
	int r;

	a->role = CS_ROLE_TEST;
	if (monitor)
		find_monitor(a, paths + 1);
	r = cs_agent_prepare(a);
	if (r == 0)
		r = cs_control_serve(a);
	if (r == 0)
		r = cs_service_listen_unix(a, paths[0]);
	if (r < 0)
		cs_agent_die(a, "cannot serve on %s: %s", paths[0], strerror(-r));
	cs_boot_ready(a);

	cs_agent_loop(a);
	cs_service_close_all(a);
	bury(a);
	cs_wake_close(a);
	cs_freezer_close(a);
	cs_config_forget_command(&a->config);
	if (a->control.fd >= 0)
		close(a->control.fd);
	close(a->listener.fd);
	close(a->signals.fd);
	close(a->epoll);
	return 0;
}

int main(int argc, char **argv)
{
	struct cs_agent a = { .epoll = -1,
			      .disk = -1,
			      .signals.fd = -1,
			      .control.fd = -1,
			      .listener.fd = -1,
			      .console.fd = -1,
			      .freezer = CS_FREEZER_NONE,
			      .wake = CS_WAKE_NONE };

	if ((argc == 3 || argc == 5) && !strcmp(argv[1], "--serve-unix"))
		return serve_unix(&a, argv + 2, argc == 5);
	if (getpid() != 1) {
		say_line("this is PID 1 of a clearstore guest, nothing to start by hand");
		return 2;
	}

	/* Only the kernel calls its first program /init, and only in an initramfs. */
	if (!strcmp(argv[0], "/init") && !access("/modules/order", F_OK))
		cs_modules_boot(&a);

	cs_boot_root(&a);
	cs_agent_loop(&a);
	return 0;
}

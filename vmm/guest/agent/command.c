/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What runs in the guest without being asked for over the service: COMMAND, /sbin/init, a shell on
 * the console. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/file.h"
#include "vmm/guest/agent/spawn.h"

/* Between SIGTERM and SIGKILL for what COMMAND has left behind. */
#define LEFTOVER_GRACE_MS 1000
/* The same when the root's own init has to stop its services. */
#define INIT_GRACE_MS 20000

static int open_console(int flags)
{
	int fd = open("/dev/hvc0", flags | O_NOCTTY | O_CLOEXEC);

	return fd >= 0 ? fd : open("/dev/console", flags | O_NOCTTY | O_CLOEXEC);
}

/* ---- COMMAND ---- */

void cs_command_end(struct cs_agent *a, uint32_t status)
{
	cs_control_u32(a, CS_WIRE_EXITED, status);
	/* If it ended because everything does, the one who asked has said how. */
	if (a->stop.phase != CS_STOP_NONE)
		return;
	cs_stop_begin(a, CS_WIRE_POWEROFF,
		      a->role == CS_ROLE_UNDER_INIT ? INIT_GRACE_MS : LEFTOVER_GRACE_MS);
}

uint32_t cs_command_start(struct cs_agent *a)
{
	struct cs_config *c = &a->config;
	int in = open("/dev/null", O_RDONLY | O_CLOEXEC), out = open_console(O_WRONLY);
	struct cs_spawn s = { .argv = c->argv, .env = c->env, .folder = "/" };
	pid_t pid;

	s.fd[0] = in >= 0 ? in : STDIN_FILENO;
	s.fd[1] = s.fd[2] = out >= 0 ? out : STDOUT_FILENO;
	pid = cs_spawn_run(a, &s);
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	cs_config_forget_command(c);

	if (pid < 0) {
		cs_agent_trouble(a, "%s", s.words);
		return s.error == ENOENT ? 127 : 126;
	}
	a->command = pid;
	return 0;
}

/* ---- the root's own init ---- */

/* PID 1 becomes it. Returns only when that fails. */
static void become_init(void)
{
	static const char path[] = "/sbin/init";
	char *const argv[] = { (char *)path, NULL };
	char *const env[] = { (char *)"HOME=/", (char *)"TERM=linux", NULL };
	int console = open_console(O_RDWR);

	if (console >= 0) {
		for (int i = 0; i < 3; i++)
			dup2(console, i);
		close(console);
	}
	execve(path, argv, env);
}

/* Our place is a child of it, which goes on only when PID 1 has really become another program:
 * until then it can still take everything back. */
void cs_command_init(struct cs_agent *a)
{
	char failed;
	int p[2];
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		cs_agent_trouble(a, "cannot start /sbin/init: %s", strerror(errno));
		return;
	}

	if (pid == 0) {
		close(p[1]);
		if (read(p[0], &failed, 1) != 0)
			_exit(0);
		close(p[0]);
		setsid();
		a->role = CS_ROLE_UNDER_INIT;
		/* PID 1 is safe from the kernel's search for memory, its child is not by itself. */
		cs_file_write("/proc/self/oom_score_adj", "-1000");
		return;
	}

	become_init();
	cs_agent_trouble(a,
			 "cannot run /sbin/init: %s (does the root have one? try without --init)",
			 strerror(errno));
	if (write(p[1], "", 1) == 1)
		waitpid(pid, NULL, 0);
	close(p[0]);
	close(p[1]);
}

/* ---- the console ---- */

static void start_shell(struct cs_agent *a, int fd)
{
	static const char *const shells[][2] = { { "/bin/bash", "-bash" }, { "/bin/sh", "-sh" } };
	struct cs_spawn s = { .folder = access("/root", X_OK) ? "/" : "/root", .terminal = true };
	bool bash = !access(shells[0][0], X_OK);
	const char *argv[] = { shells[!bash][0], NULL };
	pid_t pid;

	s.argv = (char *const *)argv;
	s.login = shells[!bash][1];
	s.fd[0] = s.fd[1] = s.fd[2] = fd;
	pid = cs_spawn_run(a, &s);
	if (pid > 0)
		a->shell = pid;
	else
		cs_agent_say(a, "%s", s.words);
}

static void console_ready(struct cs_agent *a, struct cs_watch *w, uint32_t events)
{
	int fd;

	if (a->freezer.state != CS_FREEZER_OFF) {
		a->freezer.typed = true;
		cs_watch_set(a, w, 0);
		return;
	}

	/* What has been typed stays there, for the shell. Our own descriptor dies with the shell's
	 * session: the kernel hangs the terminal up for everybody who has it open. */
	fd = open_console(O_RDWR);
	cs_watch_close(a, w);
	if (a->stop.phase != CS_STOP_NONE || fd < 0) {
		if (fd >= 0)
			close(fd);
		return;
	}

	start_shell(a, fd);
	if (!a->shell)
		tcflush(fd, TCIFLUSH);
	close(fd);
	if (!a->shell)
		cs_command_console(a);
}

void cs_command_console(struct cs_agent *a)
{
	a->console = (struct cs_watch){ .fd = open_console(O_RDWR), .ready = console_ready };
	if (a->console.fd >= 0 && cs_watch_set(a, &a->console, EPOLLIN) < 0)
		cs_watch_close(a, &a->console);
}

bool cs_command_ended(struct cs_agent *a, pid_t pid, uint32_t status)
{
	if (pid == a->command) {
		a->command = 0;
		cs_command_end(a, status);
		return true;
	}
	if (pid == a->shell) {
		a->shell = 0;
		if (a->stop.phase == CS_STOP_NONE)
			cs_command_console(a);
		return true;
	}

	return false;
}

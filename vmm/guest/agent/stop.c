/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The way down.
 *
 * As PID 1: SIGTERM to all, SIGKILL to what is left after the grace, then the disk, BYE, power off.
 * Beside the root's own init: it is asked, in the way it understands, and goes down in its own
 * order; the SIGTERM that it sends to everybody near its end, us included, is the moment for the
 * disk and BYE. A guest that powers off by itself needs none of this: its init syncs, the journal
 * of the disk is replayed at the next start, and the monitor sees the machine halt. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <termios.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/exec.h"
#include "vmm/guest/agent/kernel.h"
#include "vmm/guest/agent/spawn.h"

#define GRACE_MAX_MS 600000 /* whatever the host says */
#define KILL_MS      2000 /* for SIGKILL to be obeyed: only a process stuck in the kernel is not */
#define LEAVE_MS     500  /* from init's SIGTERM to all, for the others */
#define BYE_MS       2000 /* for the monitor to end the machine */

static void ask_by_program(struct cs_agent *a, uint32_t kind)
{
	const char *argv[] = { kind == CS_WIRE_REBOOT ? "reboot" : "poweroff", NULL };
	struct cs_spawn s = { .argv = (char *const *)argv,
			      .folder = "/",
			      .fd = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO } };

	if (cs_spawn_run(a, &s) < 0)
		cs_agent_say(a, "cannot ask /sbin/init to end: %s", s.words);
}

/* Each init has its own language. */
static void ask_init(struct cs_agent *a, uint32_t kind)
{
	char exe[128];
	ssize_t n = readlink("/proc/1/exe", exe, sizeof(exe) - 1);
	const char *name;

	exe[n > 0 ? n : 0] = 0;
	name = strrchr(exe, '/') ? strrchr(exe, '/') + 1 : exe;
	if (!access("/run/systemd/system", F_OK))
		kill(1, kind == CS_WIRE_REBOOT ? CS_SIGNAL_REBOOT : CS_SIGNAL_POWEROFF);
	else if (!strncmp(name, "busybox", 7))
		kill(1, kind == CS_WIRE_REBOOT ? SIGTERM : SIGUSR2);
	else
		ask_by_program(a, kind);
}

static void enter(struct cs_agent *a, enum cs_stop_phase phase, uint64_t ms)
{
	a->stop.phase = phase;
	cs_deadline_set(a, &a->stop.deadline, cs_agent_now() + ms);
}

void cs_stop_begin(struct cs_agent *a, uint32_t kind, uint32_t grace_ms)
{
	uint64_t end = cs_agent_now() + (grace_ms < GRACE_MAX_MS ? grace_ms : GRACE_MAX_MS);

	if (a->role == CS_ROLE_TEST) {
		a->over = true;
		return;
	}
	/* Asked again: perhaps with less patience. */
	if (a->stop.phase != CS_STOP_NONE) {
		if (end < a->stop.deadline.at_ms)
			cs_deadline_set(a, &a->stop.deadline, end);
		return;
	}

	/* Nobody who is frozen can go down. */
	cs_freezer_thaw(a);
	a->stop.kind = kind;
	a->stop.phase = a->role == CS_ROLE_UNDER_INIT ? CS_STOP_ASKED : CS_STOP_TERM;
	cs_deadline_set(a, &a->stop.deadline, end);
	cs_watch_close(a, &a->console);
	if (a->role == CS_ROLE_UNDER_INIT) {
		ask_init(a, kind);
		return;
	}

	/* An interactive shell ignores SIGTERM but not SIGHUP; one that is stopped hears neither
	 * before it goes on. */
	kill(-1, SIGTERM);
	kill(-1, SIGCONT);
	if (a->shell)
		kill(-a->shell, SIGHUP);
	/* Without any process nothing would ever tell that the last one has gone. */
	cs_agent_reap(a);
}

void cs_stop_step(struct cs_agent *a, uint64_t now)
{
	bool late = cs_deadline_over(&a->stop.deadline, now);

	switch (a->stop.phase) {
	case CS_STOP_NONE:
		break;
	case CS_STOP_TERM:
		if (a->childless)
			cs_stop_finish(a);
		if (late) {
			kill(-1, SIGKILL);
			enter(a, CS_STOP_KILL, KILL_MS);
		}
		break;
	case CS_STOP_KILL:
		if (a->childless || late)
			cs_stop_finish(a);
		break;
	case CS_STOP_ASKED:
		/* All but PID 1 and us. */
		if (late) {
			kill(-1, SIGKILL);
			enter(a, CS_STOP_KILL, LEAVE_MS);
		}
		break;
	}
}

void cs_stop_signal(struct cs_agent *a, uint32_t signal, uint32_t from_pid)
{
	if (a->role == CS_ROLE_TEST) {
		a->over = signal == SIGTERM || signal == SIGINT || a->over;
		return;
	}

	if (a->role == CS_ROLE_UNDER_INIT) {
		/* Without having been asked for, it says nothing of what comes after it. */
		if (signal == SIGTERM && a->stop.phase == CS_STOP_ASKED)
			enter(a, CS_STOP_KILL, LEAVE_MS);
		return;
	}

	/* What the programs of a root tell PID 1: busybox's poweroff, halt and reboot, systemd's
	 * numbers, and the kernel's Ctrl-Alt-Del. */
	if (signal == SIGUSR1 || signal == SIGUSR2 || signal == CS_SIGNAL_POWEROFF)
		cs_stop_begin(a, CS_WIRE_POWEROFF, 5000);
	else if (signal == SIGTERM || signal == SIGINT || signal == CS_SIGNAL_REBOOT)
		cs_stop_begin(a, CS_WIRE_REBOOT, 5000);
}

void cs_stop_disk(struct cs_agent *a)
{
	sync();

	/* It cannot be unmounted, our own root lies on it. Frozen, it is as clean as unmounted:
	 * everything written, the journal empty and its mark gone; and nothing comes after. */
	if (a->disk >= 0 && ioctl(a->disk, CS_FIFREEZE, 0) < 0 && errno != EBUSY)
		cs_agent_trouble(a, "disk: cannot freeze it: %s (its journal will be replayed)",
				 strerror(errno));
}

void cs_stop_finish(struct cs_agent *a)
{
	/* What the others still had to say has been written to the console by now; wait until the
	 * host has it. */
	tcdrain(STDERR_FILENO);
	cs_service_close_all(a);
	cs_stop_disk(a);
	cs_control_u32(a, CS_WIRE_BYE, a->stop.kind);
	if (a->control.fd >= 0) {
		struct pollfd gone = { .fd = a->control.fd, .events = POLLRDHUP };

		poll(&gone, 1, BYE_MS);
	}

	reboot(a->stop.kind == CS_WIRE_REBOOT ? RB_AUTOBOOT : RB_POWER_OFF);
	for (;;)
		pause();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent: PID 1 of a guest, one thread, one state, one loop that sleeps until something happens.
 *
 *   agent.c     the entry and the loop            watch.c     descriptors and deadlines
 *   modules.c   stage (a): from an initramfs      mounts.c    the writable root over the shared one
 *   boot.c      stage (b): from the DAX root      identity.c  clock, seed, names
 *   control.c   the monitor's connection          command.c   COMMAND, /sbin/init, console shell
 *   service.c   the host's connections            exec.c      what runs for one of them
 *   spawn.c     start a process                   stop.c      the way down
 *   freezer.c   everybody stands still            wake.c      restored: who are we now?
 *
 * An idle guest never wakes up: no timer runs unless a deadline is set, and every deadline is the
 * end of something that is going on. Guest kernel code can be very slow (HOSTS), so each system
 * call is there for a reason. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/guest/agent/config.h"
#include "vmm/guest/agent/queue.h"
#include "vmm/guest/agent/wire.h"

struct cs_agent;

/* ---- watch.c: descriptors and deadlines ---- */

/* A descriptor that the loop looks after. (fd) is -1 when there is none; it is the watch's own. */
struct cs_watch {
	int fd;
	uint32_t armed; /* the EPOLL* it is registered for; 0: not registered */
	void (*ready)(struct cs_agent *a, struct cs_watch *w, uint32_t events);
	void *owner;
};

/* Ask for (events); 0: for none, also not for a hang-up. -errno only when the kernel has no
 * memory. */
int cs_watch_set(struct cs_agent *a, struct cs_watch *w, uint32_t events);
void cs_watch_close(struct cs_agent *a, struct cs_watch *w);

/* A moment of the monotonic clock in ms; 0: none is set. */
struct cs_deadline {
	uint64_t at_ms;
};

uint64_t cs_agent_now(void); /* ms */
void cs_deadline_set(struct cs_agent *a, struct cs_deadline *d, uint64_t at_ms);
static inline bool cs_deadline_over(const struct cs_deadline *d, uint64_t now)
{
	return d->at_ms && d->at_ms <= now;
}

/* ---- the state ---- */

enum cs_role {
	CS_ROLE_INIT,       /* we are PID 1 */
	CS_ROLE_UNDER_INIT, /* PID 1 is the root's own /sbin/init, we are its first child */
	CS_ROLE_TEST,       /* a plain process on a unix socket */
};

enum cs_stop_phase {
	CS_STOP_NONE,
	CS_STOP_ASKED, /* the root's init has been asked to go down */
	CS_STOP_TERM,  /* every process has been sent SIGTERM */
	CS_STOP_KILL,  /* every process has been sent SIGKILL */
};

struct cs_stop_state {
	enum cs_stop_phase phase;
	uint32_t kind; /* enum cs_wire_stop */
	struct cs_deadline deadline;
};

enum cs_freezer_state {
	CS_FREEZER_OFF,
	CS_FREEZER_GOING, /* processes have been told to stand still */
	CS_FREEZER_ON,    /* none but us, and the hooks that we start, runs */
};

/* freezer.c. Descriptors are -1 when there is none: then it is done by signals. */
struct cs_freezer {
	enum cs_freezer_state state;
	bool asked;                  /* FREEZE has not been answered */
	bool empty;                  /* nobody was there to be frozen, nor is now */
	uint32_t flags;              /* of FREEZE */
	struct cs_deadline patience; /* CS_FREEZER_GOING lasts no longer */
	int guest, hooks;            /* cgroups: what processes start in, what hooks do */
	int freeze;                  /* cgroup.freeze */
	int back;                    /* cgroup.procs of where the agent belongs */
	struct cs_watch events;      /* cgroup.events */
	bool no_clone;               /* the kernel cannot start a process in a cgroup */
	pid_t *stopped;              /* by signals */
	size_t n_stopped;
	bool ended, typed; /* put off until the thaw: a process has ended; the console's line */
};

/* A file that is to be written at wake-up, and how long it is. */
struct cs_held {
	int fd;
	size_t bytes;
};

/* What a wake-up needs, made ready before the guest is frozen for good: at wake-up each system call
 * makes somebody wait. */
struct cs_wake {
	int random; /* /dev/urandom, open since boot */
	int socket; /* for the monitor */
	struct cs_held boot_id, machine_id, hostname, hosts;
	char node[65];      /* the kernel's host name */
	char name[80];      /* the text of /etc/hostname */
	char *hosts_text;   /* of /etc/hosts, with room for one more line */
	bool owed;          /* names and ids are still those of before */
	size_t own_at, own; /* our name in it, and its bytes; own 0: it is not there */
	char **hooks;       /* paths, NULL-ended; NULL: none */
};

#define CS_HELD_NONE                                                                               \
	{                                                                                          \
		.fd = -1                                                                           \
	}
#define CS_FREEZER_NONE                                                                            \
	{                                                                                          \
		.guest = -1, .hooks = -1, .freeze = -1, .back = -1, .events.fd = -1                \
	}
#define CS_WAKE_NONE                                                                               \
	{                                                                                          \
		.random = -1, .socket = -1, .boot_id = CS_HELD_NONE, .machine_id = CS_HELD_NONE,   \
		.hostname = CS_HELD_NONE, .hosts = CS_HELD_NONE                                    \
	}

struct cs_conn;

/* Enough for what was kept of the last read, and a whole message behind it. */
#define CS_SCRATCH_BYTES (2 * (CS_WIRE_MAX + 64))

/* Connections at once. Each takes up to four descriptors; see cs_agent_prepare(). */
#define CS_CONNS_MAX 900

struct cs_agent {
	enum cs_role role;
	int epoll;
	struct cs_watch signals, control, listener, console;
	size_t deadlines; /* how many are set */
	/* The limit on descriptors that processes get; ours is higher. All zero: the same. */
	uint64_t child_files[2];

	struct cs_config config;
	const char *monitor;          /* test role: its socket; NULL: vsock */
	struct cs_queue control_held; /* the first part of a message of the monitor */
	bool control_broken;          /* a message could not be sent */
	int disk;                     /* a folder on the persistent disk's file system; -1: none */
	pid_t command;                /* COMMAND; 0: none runs */
	pid_t shell;                  /* the shell on the console; 0: none */
	bool childless;               /* the last look found no process left */
	bool over;                    /* test role: leave the loop */
	bool no_console;              /* hvc0 has failed: do not try again */

	struct cs_stop_state stop;
	struct cs_freezer freezer;
	struct cs_wake wake;
	/* The least by which our clock (CLOCK_MONOTONIC_RAW) was ahead of clock_ns when a CONFIG
	 * came: what it is ahead more than that, this CONFIG is late. */
	int64_t clock_least, clock_asked; /* (asked): when HELLO was sent; 0: CONFIG came unasked */
	int64_t clock_guess; /* by so much (least) may be too low: half of HELLO's way and back */
	bool clock_known;

	struct cs_conn *conns, *dead; /* serving; closed in this round of the loop */
	size_t n_conns;

	uint8_t scratch[CS_SCRATCH_BYTES];
};

/* ---- agent.c ---- */

/* One line to the console. */
void cs_agent_say(struct cs_agent *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* One line to the console, and to the user (TROUBLE) when there is a monitor. */
void cs_agent_trouble(struct cs_agent *a, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Nothing can go on: say so, sync, power off. Never a kernel panic. */
void cs_agent_die(struct cs_agent *a, const char *fmt, ...)
	__attribute__((format(printf, 2, 3), noreturn));

/* Signals, epoll, descriptor limit: what every role needs before it serves. */
int cs_agent_prepare(struct cs_agent *a);

/* Take in what has ended, and know whether anything is left. */
void cs_agent_reap(struct cs_agent *a);

/* Serve for ever (test role: until SIGTERM). */
void cs_agent_loop(struct cs_agent *a);

/* ---- modules.c, boot.c ---- */

/* Stage (a), as /init of an initramfs: load modules, mount the root, become stage (b) in it. */
void cs_modules_boot(struct cs_agent *a) __attribute__((noreturn));

/* Stage (b), in the root: everything up to READY. */
void cs_boot_root(struct cs_agent *a);
/* The last step of it: start COMMAND, or wait at the console, and say READY. */
void cs_boot_ready(struct cs_agent *a);

/* ---- mounts.c ---- */

/* Stack a writable root over the shared one (upper on tmpfs, or with (persist) on /dev/vda) and
 * move into it; then the kernel's own file systems. 0, or -errno with *what named. *fresh: the
 * upper was empty. */
int cs_mounts_root(struct cs_agent *a, bool persist, bool *fresh, const char **what);

/* Mount, making the folder when it is missing. 0 or -errno. */
int cs_mounts_one(const char *source, const char *target, const char *type, unsigned long flags,
		  const char *data);

/* ---- identity.c ---- */

void cs_identity_kernel(struct cs_agent *a);           /* clock, hostname, lo: needs no root */
void cs_identity_root(struct cs_agent *a, bool fresh); /* seed, /etc/hostname, hosts, machine-id */
void cs_identity_seed(struct cs_agent *a);             /* of CONFIG, which forgets it */
void cs_identity_asks(struct cs_agent *a);             /* HELLO is about to be sent */
/* A CONFIG has come: how late is it, compared with those that came before? */
void cs_identity_heard(struct cs_agent *a, uint64_t clock_ns);
/* The same of a FREEZE, which comes to a machine that is up and about to be saved: its clones have
 * nothing but what it knows by then. */
void cs_identity_heard_idle(struct cs_agent *a, uint64_t clock_ns);
void cs_identity_clock(struct cs_agent *a); /* set the clock as the last CONFIG says */
/* A random UUID's bytes from random ones; as 32 digits, or with (dashes) as 36; and a new line. */
size_t cs_identity_uuid(uint8_t raw[16], bool dashes, char text[38]);
/* (word) stands in (text), of /etc/hosts, as a word of its own. */
bool cs_identity_has_name(const char *text, const char *word);

/* ---- identity-wake.c ---- */

void cs_identity_prepare(struct cs_agent *a); /* look, open, never change */
void cs_identity_wake(struct cs_agent *a);    /* CONFIG's clock and seed, and soon the rest: */
void cs_identity_settle(struct cs_agent *a);  /* names and ids, before anybody can see them */

/* ---- control.c ---- */

/* Connect to the monitor, HELLO, CONFIG. -errno: there is none (a->config is then empty). */
int cs_control_open(struct cs_agent *a);
/* Take messages from it in the loop. */
int cs_control_serve(struct cs_agent *a);
/* The same as open after the connection has been lost, which the caller still has to close: a new
 * one in its place, not yet served. Tries for ever when it (must). */
int cs_control_again(struct cs_agent *a, bool must);
void cs_control_prepare(struct cs_agent *a); /* a->wake.socket */
/* After a round of the loop: a message could not be sent, so there is no connection any more. */
void cs_control_check(struct cs_agent *a);
void cs_control_send(struct cs_agent *a, enum cs_wire_type type, const void *payload, size_t n);
void cs_control_u32(struct cs_agent *a, enum cs_wire_type type, uint32_t value);

/* ---- command.c ---- */

/* COMMAND of CONFIG. 0, or the status it is to have had: it could not be run. */
uint32_t cs_command_start(struct cs_agent *a);
void cs_command_end(struct cs_agent *a, uint32_t status); /* COMMAND has ended: EXITED, down */
void cs_command_init(struct cs_agent *a);    /* hand PID 1 to /sbin/init; returns in the agent */
void cs_command_console(struct cs_agent *a); /* wait for somebody to type there */
/* (pid) was ours and has ended; true: it was COMMAND or the console's shell. */
bool cs_command_ended(struct cs_agent *a, pid_t pid, uint32_t status);

/* ---- freezer.c ---- */

/* Before any process is started: cgroups, and a namespace in which nothing leads out of them. With
 * (run_init) they are such that an init can have its own below. Without cgroups: by signals. */
void cs_freezer_boot(struct cs_agent *a, bool run_init);
/* This process goes on as the agent: out of there. */
void cs_freezer_leave(struct cs_agent *a);
/* The same for tests, below the cgroup (base) and without a namespace. 0 or -errno. */
int cs_freezer_open(struct cs_agent *a, const char *base, bool run_init);
void cs_freezer_close(struct cs_agent *a);

void cs_freezer_begin(struct cs_agent *a, uint32_t flags); /* FREEZE */
void cs_freezer_hold(struct cs_agent *a);                  /* at once, without an answer */
void cs_freezer_thaw(struct cs_agent *a);                  /* whatever state it is in */
/* A thaw in two steps: let them run; what has been put off for it. */
void cs_freezer_release(struct cs_agent *a);
void cs_freezer_settle(struct cs_agent *a);
void cs_freezer_expire(struct cs_agent *a);
/* A process of ours could not be put where it belongs: from now on by signals. */
void cs_freezer_leak(struct cs_agent *a);
/* What the hooks have left behind belongs to everybody else; with (kill) it is ended. */
void cs_freezer_adopt(struct cs_agent *a, bool kill);

/* ---- freezer-signals.c ---- */

/* Stop every process that comes from us, and know which; let these go on. 0 or -errno. */
int cs_signals_stop(struct cs_agent *a, uint32_t patience_ms);
void cs_signals_continue(struct cs_agent *a);

/* ---- wake.c, hooks.c ---- */

void cs_wake_prepare(struct cs_agent *a);
void cs_wake_close(struct cs_agent *a); /* what is ready is not needed, or not true any more */
/* The monitor's connection is lost: because we have been restored (reset), or it may be. */
void cs_wake(struct cs_agent *a, bool reset);
/* Or it lives on, and has brought this CONFIG, which becomes the agent's. */
void cs_wake_config(struct cs_agent *a, const struct cs_config *config);
void cs_hooks_prepare(struct cs_agent *a);
void cs_hooks_run(struct cs_agent *a);

/* ---- stop.c ---- */

void cs_stop_begin(struct cs_agent *a, uint32_t kind, uint32_t grace_ms);
void cs_stop_signal(struct cs_agent *a, uint32_t signal, uint32_t from_pid);
void cs_stop_step(struct cs_agent *a, uint64_t now); /* a process has ended, or time has passed */
/* Processes are gone or do not matter: make the disk clean, say BYE, leave. */
void cs_stop_finish(struct cs_agent *a) __attribute__((noreturn));
void cs_stop_disk(struct cs_agent *a); /* everything on disk, clean, and nothing written after */

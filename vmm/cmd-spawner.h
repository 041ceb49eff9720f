/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting guests: one monitor process each, forked from a process that has everything open. Only
 * commands include it. */
#pragma once

#include <argp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cow/card.h"
#include "store/base/err.h"
#include "store/store.h"
#include "store/template.h"
#include "vmm/cmd-common.h"
#include "vmm/kvm.h"

/* ---- the monitor: cmd-monitor.c ------------------------------------------------------------ */

struct cs_monitor_spec {
	struct cs_store *store;
	const struct cs_template *template;
	const struct cs_host_kvm *kvm;
	const struct cs_card *card; /* of the guest; the monitor enters itself */
	const char *guest;          /* its name: card->guest need not be filled */
	int event_fd; /* told 'R', 'A' (vmm/machine.h), or 'E' and a struct cs_err; becomes the
	   monitor's */
	/* It is nobody's guest yet (cow/spare.h), like (card), with (guest) for a title: (event_fd)
	 * is told 'W' when it waits, 'T' when it was taken; or 'E'. When its reader is gone, it
	 * ends. */
	bool spare;
	bool watched;         /* its pages are mapped one by one (cow/ram.h), where that can be */
	int turn_fd, over_fd; /* of the machine (vmm/machine.h), whose they become; -1: none */
};

/* Become the monitor of a guest that exists: cut loose from terminal and session, enter the card,
 * open the overlay, build the machine, give up privileges, serve until the guest ends, leave the
 * exit line. In a process of its own, forked, with one thread. */
_Noreturn void cs_monitor_main(const struct cs_monitor_spec *spec);

/* ---- the spawner: cmd-spawner.c ------------------------------------------------------------ */

/* How many threads of this host run or want to, now (proc(5), loadavg); 0: it does not tell. */
size_t cs_spawner_runnable(void);

/* The turns in which many guests that go on from a saved state wake: cmd-spawner-turns.c */
struct cs_spawner_turns;

/* (at_once) of them at a time, at least 1. -ENOMEM, -EMFILE with words, as of the next. */
int cs_spawner_turns_create(size_t at_once, struct cs_spawner_turns **ret, struct cs_err *err);

/* Of one more guest, for its monitor's spec; the caller's, who closes both when it has forked. When
 * what is called (over) is closed by all, or its holder is dead, so is the turn. */
int cs_spawner_turns_next(struct cs_spawner_turns *turns, int *ret_turn_fd, int *ret_over_fd,
			  struct cs_err *err);

/* The first may wake, which happens also when this process ends; NULL is fine. */
void cs_spawner_turns_begin(struct cs_spawner_turns *turns);

struct cs_spawner_turns *cs_spawner_turns_free(struct cs_spawner_turns *turns);
CS_DEFINE_AUTO(cs_spawner_turns);

enum cs_spawn_state {
	CS_SPAWN_PLANNED,
	CS_SPAWN_STARTED, /* its monitor exists */
	CS_SPAWN_RUNNING, /* its first vCPU has run */
	CS_SPAWN_READY,   /* its agent serves */
	CS_SPAWN_FAILED,
};

struct cs_spawn_guest {
	char name[64];
	enum cs_spawn_state state;
	bool created; /* its overlay is ours: removed when it fails */
	bool taken;   /* it was a spare: no child of ours */
	pid_t pid;
	int event_fd; /* private */
	int pidfd;    /* private, of one that was taken; kept for cs_spawner_take_back() */
	uint64_t running_us, ready_us; /* since cs_spawner_run() began; 0: not yet */
};

struct cs_spawner {
	/* what the caller fills in; all lent */
	struct cs_store *store;
	const struct cs_template *template;
	const struct cs_host_kvm *kvm; /* NULL: opened when it is needed */
	size_t spares;                 /* so many guests may be spares (cow/spare.h) */
	const struct cs_card *card;    /* what all are like */
	const char *prefix;            /* names are free numbers behind it. NULL: as given */
	bool create;                   /* make the overlays; false: they are there (start) */
	bool watched;                  /* as of the monitor's spec */
	bool wait;                     /* until ready, not only running */
	uint64_t timeout_ms; /* what has not settled by then is taken back; 0: wait for ever; at
				most INT_MAX */
	struct cs_spawn_guest *guests;
	size_t n;
	/* private */
	int epoll_fd, signal_fd, lock_fd;
	struct cs_host_kvm *own_kvm;
	struct cs_spawner_turns *turns; /* NULL: they wake as they come */
	uint64_t begun_us, shown_us;
	size_t started, settled, failed;
	unsigned number; /* last one tried behind (prefix) */
	bool interrupted, broken;
	bool cold;           /* the saved machine does not fit: all boot */
	struct cs_err first; /* failure */
};

/* Before anything is opened: closes descriptors that the caller of the program left open, since
 * monitors would keep them for as long as they live, and takes all descriptors we may have. */
void cs_spawner_prepare(void);

/* Descriptors that monitors are to have lie under this number, those of who forks them above it, so
 * that a monitor closes them by one call. */
#define CS_SPAWNER_FD_BASE 64

/* Move (fd) there; (fd) itself is closed, and may be -1. -1 and errno: also when it was. */
int cs_spawner_raise_fd(int fd);

/* For who forks monitors until it is told to end: a descriptor up there that can be read when
 * SIGINT, SIGTERM or SIGHUP has come; children are nobody's to wait for. -1 and errno. */
int cs_spawner_signals(void);

/* /dev/kvm, or CLEARSTORE_KVM of the environment. */
int cs_spawner_kvm_open(struct cs_host_kvm **ret, struct cs_err *err);

/* Start all, wait as asked. Those that fail are taken back, the others stay. -errno with the words
 * of the first failure; the guests' states tell which run. -EINTR: SIGINT, SIGTERM or SIGHUP came;
 * those not yet running are taken back. */
int cs_spawner_run(struct cs_spawner *spawner, struct cs_err *err);

/* Name all of spawner->guests: (name), or (name)-1, (name)-2, ... when there are several: -EEXIST
 * when any is taken. (name) NULL: free numbers behind spawner->prefix. */
int cs_spawner_names(struct cs_spawner *spawner, const char *name, struct cs_err *err);

/* The next free number behind spawner->prefix becomes the name of (guest). -EEXIST: none is free.
 */
int cs_spawner_next_name(struct cs_spawner *spawner, struct cs_spawn_guest *guest,
			 struct cs_err *err);

/* Kill the monitor of a guest that this process started, and delete the guest if this process made
 * it. */
void cs_spawner_take_back(struct cs_store *store, struct cs_spawn_guest *guest);

/* As cs_cmd_guest_running(), and one that is parked is woken first: returns when it answers. Call
 * cs_spawner_prepare() before. cmd-start.c */
int cs_cmd_guest_awake(struct cs_store *store, const char *name, struct cs_cmd_guest *ret,
		       struct cs_err *err);

/* ---- options that spawn and run share: cmd-spawn.c ----------------------------------------- */

struct cs_spawn_options {
	const char *template, *name, *memory, *vcpus, *count, *append, *user, *folder,
		*share_domain, *disk;
	struct cs_words env;
	bool persist, init, wait, tty, cold, overcommit;
	bool no_spares; /* make them, also where there are some to be had */
	char **command; /* NULL-ended; NULL: none */
};

extern const struct argp cs_spawn_argp; /* name, memory, vcpus, env, append; its input is a struct
					   cs_spawn_options */

/* What both commands have open, and the card of a guest with these options, which borrows from
 * them. Zeroed is empty. */
struct cs_spawn_session {
	struct cs_store *store;
	struct cs_template *template;
	struct cs_host_kvm *kvm;
	struct cs_card card;
	size_t count;  /* of --count; 1 without */
	size_t spares; /* on offer for such guests, if those are enough; then (kvm) is NULL */
};

/* Check the options, open store, template and KVM, fill the card. */
int cs_spawn_open(const struct cs_globals *globals, const struct cs_spawn_options *o,
		  struct cs_spawn_session *ret, struct cs_err *err);

/* Such guests belong to this process: whoever sweeps and finds us dead removes them. */
int cs_spawn_own(struct cs_card *card, struct cs_err *err);

/* Signals that would end us must not come between a guest and its removal: the spawner and an exec
 * listen to them, in between they wait, until the caller restores (*ret_before). */
void cs_spawn_hold_signals(sigset_t *ret_before);

/* The host has memory for the guests that are to be spawned, judged by those of their kind that
 * run, or -ENOMEM with words. cmd-admit.c */
int cs_spawn_admit(const struct cs_spawn_session *session, struct cs_err *err);

#define CS_SPAWN_MEMORY "128M" /* of a guest, unless told otherwise */
/* The MP table names a CPU by 8 bits, of which 255 means all and one is the IOAPIC's. */
#define CS_SPAWN_VCPUS_MAX 254

/* What a guest's memory, given as (what), may be on a host of (host_bytes), 0: not known: it need
 * not all be free, since most of it is never touched, but a guest larger than the host would be a
 * mistake. -EINVAL, -ERANGE with words. */
int cs_spawn_memory(const char *what, const char *text, uint64_t host_bytes, uint64_t *ret,
		    struct cs_err *err);

void cs_spawn_closep(struct cs_spawn_session *session);

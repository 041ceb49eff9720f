/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest's card: what it was spawned from and as, and who runs it. <root>/guests/<name>/card.json,
 * published by rename; beside it "exit", one line that the monitor leaves behind when it ends
 * ("poweroff 0"). */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "store/base/err.h"
#include "store/base/own.h"
#include "store/store.h"

enum cs_guest_state {
	CS_GUEST_RUNNING,
	CS_GUEST_STOPPED, /* powered off or asked to stop; exit_status is COMMAND's */
	CS_GUEST_CRASHED, /* the kernel panicked, or the monitor died without a word */
};

struct cs_card {
	char guest[64], template[64], version[32];
	uint64_t ram_bytes, disk_bytes;
	unsigned vcpus;
	bool persist;             /* keeps its disk over stop and start */
	bool run_init;            /* hand PID 1 to the root's /sbin/init */
	bool remove_on_exit;      /* `run`: swept when it or its owner is dead */
	char **command;           /* NULL-ended; NULL: none */
	char **env;               /* NULL-ended; NULL: none */
	char *append;             /* kernel command line of this guest; NULL: none */
	time_t created, started;  /* seconds since 1970 */
	pid_t pid;                /* of the monitor; 0: never ran */
	uint64_t pid_start_ticks; /* field 22 of /proc/PID/stat: a reused pid is noticed */
	pid_t owner_pid;          /* remove_on_exit: who waits for it */
	uint64_t owner_start_ticks;
	/* not stored, found out by cs_card_load(): */
	enum cs_guest_state state;
	int exit_status;      /* of COMMAND, or -1 */
	char stop_reason[32]; /* "poweroff", "reboot", "crash", "killed" */
};

/* Load and judge: alive or not by pid and start time, otherwise by the exit line. -ENOENT with
 * words. */
int cs_card_load(struct cs_store *store, const char *guest, struct cs_card **ret,
		 struct cs_err *err);
int cs_card_save(struct cs_store *store, const struct cs_card *card, struct cs_err *err);

/* Visit all guests in order of name (web-2 before web-10); half-made and broken ones are left out.
 * fn as in template.h. */
typedef int (*cs_card_fn)(const struct cs_card *card, void *arg);
int cs_card_each(struct cs_store *store, cs_card_fn fn, void *arg, struct cs_err *err);

/* Start time of a process in clock ticks since boot; -ESRCH. */
int cs_process_start(pid_t pid, uint64_t *ret_ticks);

struct cs_card *cs_card_copy(const struct cs_card *card); /* NULL: out of memory */
struct cs_card *cs_card_free(struct cs_card *card);
CS_DEFINE_AUTO(cs_card);

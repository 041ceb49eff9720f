/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest's card: what it was spawned from and as, and who runs it. <root>/guests/<name>/card.json,
 * published by rename; beside it "exit", one line that the monitor leaves behind when it ends
 * ("poweroff 0").
 *
 * The life of a guest, and who writes what:
 *
 *   1. The spawner makes the folder and the card (cs_overlay_create()): pid 0, state STOPPED,
 * "new".
 *   2. It forks the process that is to be the monitor.
 *   3. cs_card_start() enters its pid: called by the spawner while the child waits, or by the child
 *      as the first thing it does. When it fails, the child must not touch the guest's folder.
 *   4. The child opens the exit file (cs_card_open_exit()), binds its sockets, gives up its
 *      privileges, runs KVM, writes the exit line (cs_card_write_exit()) and ends.
 *
 * All under the shared store lock up to 4, so that the template stays. A kill between 1 and 3
 * leaves a guest that was never started, one between 3 and the exit line one that crashed
 * ("killed"); both are swept when they were to be removed on exit. */
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
	CS_GUEST_PARKED,  /* goes on where it stood when it is started (cow/park.h) */
	CS_GUEST_BROKEN,  /* its card cannot be read: only (guest) is filled, it can be removed */
};

#define CS_CARD_BYTES_MAX (UINT64_C(64) << 10) /* of card.json: bounds COMMAND and environment */
#define CS_CARD_VCPUS_MAX 1024                 /* KVM_MAX_VCPUS of most hosts */
#define CS_BOOT_ID_ROOM   40                   /* a UUID and its end */

struct cs_card {
	char guest[64], template[64], version[32];
	char share_domain[64]; /* whom it may share with what it wrote; "": nobody */
	uint64_t ram_bytes, disk_bytes;
	unsigned vcpus;
	bool persist;             /* keeps its disk over stop and start */
	bool run_init;            /* hand PID 1 to the root's /sbin/init */
	bool resume;              /* goes on from the machine saved in the template; false: boots */
	bool remove_on_exit;      /* `run`: swept when its owner (none: when it) is dead */
	char **command;           /* NULL-ended; NULL: none */
	char **env;               /* NULL-ended; NULL: none */
	char *append;             /* kernel command line of this guest; NULL: none */
	time_t created, started;  /* seconds since 1970 */
	pid_t pid;                /* of the monitor; 0: never ran */
	uint64_t pid_start_ticks; /* field 22 of /proc/PID/stat: a reused pid is noticed */
	pid_t owner_pid;          /* remove_on_exit: who waits for it; 0: nobody */
	uint64_t owner_start_ticks;
	char boot[CS_BOOT_ID_ROOM]; /* of the host, for which the pids hold; filled by
				       cs_overlay_create() and cs_card_start() */
	/* not stored, found out by cs_card_load(): */
	enum cs_guest_state state;
	bool paused;          /* it runs, and stands still */
	int exit_status;      /* of COMMAND, or -1 */
	char stop_reason[32]; /* "poweroff", "reboot", "request", "crash"; "parked"; "killed": no
				 exit line; "new": never started; "broken"; "" while it runs */
};

/* Load and judge: alive or not by pid and start time, otherwise by the exit line. -ENOENT with
 * words; -EBADMSG: the card is broken, -EPROTO: made by a newer clearstore. */
int cs_card_load(struct cs_store *store, const char *guest, struct cs_card **ret,
		 struct cs_err *err);

/* Publish the card of a guest that exists. Of a guest that persists it is synced, so that a power
 * cut does not take the disk's card; of others not. -E2BIG: over CS_CARD_BYTES_MAX, -ENOENT. */
int cs_card_save(struct cs_store *store, const struct cs_card *card, struct cs_err *err);

/* The same into a folder by descriptor: for a guest in the making. */
int cs_card_save_at(int dirfd, const struct cs_card *card, struct cs_err *err);

/* Step 3: enter (pid), alive, as the monitor of card->guest, the only member that is read. The
 * stored card gets pid, pid_start_ticks, boot and started and stays as it was otherwise; these and
 * created, disk_bytes and state are then filled in (card), which is untouched on failure. Takes
 * away what the last run left: exit line, sockets. -EBUSY: it runs already (another start was
 * faster), -ENOENT: it was removed, -ESRCH: (pid) is dead. */
int cs_card_start(struct cs_store *store, struct cs_card *card, pid_t pid, struct cs_err *err);

/* Step 4: open the exit file in the guest's folder (dirfd), empty, and lock it, so that a guest
 * with a broken card is not removed under a living monitor. Called by the monitor while it may
 * still write there; it keeps the descriptor until it ends. *ret is the caller's. -EBUSY: another
 * monitor has it.
 */
int cs_card_open_exit(int dirfd, int *ret);

/* Write the exit line. (reason): "poweroff", "reboot", "crash", "request"; (status) 0-255 of
 * COMMAND, -1: none. */
int cs_card_write_exit(int fd, const char *reason, int status);

/* Visit all guests in order of name (web-2 before web-10); half-made ones are left out, broken ones
 * come with state CS_GUEST_BROKEN, those removed meanwhile do not. fn returns 0 to go on, anything
 * else ends the walk and is returned. */
typedef int (*cs_card_fn)(const struct cs_card *card, void *arg);
int cs_card_each(struct cs_store *store, cs_card_fn fn, void *arg, struct cs_err *err);

/* The (find) of struct cs_template_user (store/template.h); (store) is its arg, a struct cs_store.
 * Stopped guests borrow too. (version) NULL: any. A broken card borrows nothing: it cannot be
 * started, and a mapped part outlives its name. */
int cs_card_find_user(void *store, const char *name, const char *version, char guest[64],
		      struct cs_err *err);

/* Start time of a process in clock ticks since boot; -ESRCH, also when it is dead and only not yet
 * waited for. */
int cs_process_start(pid_t pid, uint64_t *ret_ticks);

/* Does (pid) run, and is it the process that started at (start_ticks)? */
bool cs_process_alive(pid_t pid, uint64_t start_ticks);

struct cs_card *cs_card_copy(const struct cs_card *card); /* NULL: out of memory */
struct cs_card *cs_card_free(struct cs_card *card);
CS_DEFINE_AUTO(cs_card);

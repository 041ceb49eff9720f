/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Folders, locks and marks of guests: who works on one, and what a process may leave behind that
 * dies.
 *
 * A guest's folder is locked (flock on the folder itself) by who makes, starts or deletes it. What
 * could be left behind is found in one place, <guests>/.marks/, so that sweeping reads that and not
 * thousands of guests:
 *
 *	new-NAME/	a guest in the making, locked by its maker
 *	old-NAME/	a guest that is being deleted, locked by who does
 *	park-NAME/	what is to become NAME/parked (cow/park.h), locked by who parks it
 *	PID-OWNER-NAME	an empty file: the guest was started as PID. The monitor may not write
 *			here, so it is taken away by the first that finds PID dead. OWNER: who waits
 *			for a guest that is removed on exit, 0: nobody. PID is 0 before the first
 *			start of a guest with an owner; one without an owner has no mark then.
 *	boot-ID		an empty file: all of this was looked through since the boot ID, so a pid
 *			that is in use is the one that was meant
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "cow/card.h"
#include "store/base/err.h"
#include "store/store.h"

#define CS_CONTROL_SOCKET "control.sock"
#define CS_VSOCK_SOCKET   "vsock.sock"

#define CS_MARK_NEW  "new-"
#define CS_MARK_OLD  "old-"
#define CS_MARK_PARK "park-"
#define CS_MARK_BOOT "boot-"
#define CS_MARK_ROOM 128 /* for any name in .marks */

/* Random id of this boot of the host (/proc/sys/kernel/random/boot_id). */
int cs_boot_id(char ret[CS_BOOT_ID_ROOM], struct cs_err *err);

/* Open <guests>/.marks, made when missing; *ret is the caller's. */
int cs_marks_open(struct cs_store *store, int *ret, struct cs_err *err);

/* Name of the mark that (card) is to have; false: it needs none. */
bool cs_mark_of(const struct cs_card *card, char ret[CS_MARK_ROOM]);

/* Put the mark of (card), or take it away; missing is fine. */
int cs_mark_put(int marks_fd, const struct cs_card *card, struct cs_err *err);
void cs_mark_drop(int marks_fd, const struct cs_card *card);

/* Open the folder (name) in (dirfd) and lock it until *ret, the caller's, is closed. -ENOENT: not
 * or no longer there; -EBUSY: locked, and not (wait). A child inherits the lock: do not fork with
 * it. */
int cs_folder_lock(int dirfd, const char *name, bool wait, int *ret);

/* Open the folder of (guest); *ret is the caller's. -ENOENT with words. */
int cs_guest_open(struct cs_store *store, const char *guest, int *ret, struct cs_err *err);

/* As cs_guest_open(), locked as by cs_folder_lock(); with words. */
int cs_guest_lock(struct cs_store *store, const char *guest, bool wait, int *ret,
		  struct cs_err *err);

/* Remove the sockets that a dead monitor left in the guest's folder. */
void cs_guest_drop_sockets(int dirfd);

/* Fill state, exit_status and stop_reason of the guest whose folder is (dirfd). */
void cs_life_judge(int dirfd, struct cs_card *card);

/* Does its owner still wait for it? False when it has none. */
bool cs_life_owner_waits(const struct cs_card *card);

/* Forget the exit line of the last run. */
void cs_life_drop_exit(int dirfd);

/* Does a monitor hold the exit file in (dirfd)? For a guest whose card says nothing. */
bool cs_life_exit_held(int dirfd);

/* Kill the monitor of a guest that was just judged to run, and wait until it is gone. -ETIMEDOUT:
 * it does not die. */
int cs_life_kill(const struct cs_card *card, struct cs_err *err);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A parked guest: what its machine had in memory and its state are in guests/<name>/parked/, and no
 * process runs. It goes on from there when it is started.
 *
 *	ticket	not empty, as long as this is what the guest is. The monitor holds it while it
 *		stands still, and makes it empty should it go on after all
 *	seal	"1 zeroes|memory BYTES SHA-256\n": what the guest's memory is mapped from, its
 *		template's MEMORY part or nothing; size and digest of (state)
 *	memory	the pages that differ (vmm/snapshot-delta.h)
 *	state	of the machine (vmm/stream.h)
 *
 * In the making it is guests/.marks/park-<name>/, locked by its maker, and swept when that is dead.
 */
#pragma once

#include <stdbool.h>

#include "cow/card.h"
#include "store/base/err.h"
#include "store/base/own.h"
#include "store/store.h"

/* ---- to park */

enum cs_park_file { CS_PARK_MEMORY, CS_PARK_STATE, CS_PARK_TICKET, CS_PARK_FILES };

struct cs_park;

/* Begin to park the guest of (card), which runs. -EBUSY: another does so already. */
int cs_park_create(struct cs_store *store, const struct cs_card *card, struct cs_park **ret,
		   struct cs_err *err);

/* Its files, opened for reading and writing; lent: the order is the control socket's. */
const int *cs_park_fds(const struct cs_park *park);

/* All is written, and the monitor stands still: put it in its place, synced. (from_memory): the
 * guest goes on from its template's MEMORY part. From here on the guest is parked as soon as its
 * monitor is dead. -ESRCH: it is dead already, or another runs. */
int cs_park_publish(struct cs_park *park, bool from_memory, struct cs_err *err);

/* What was not published is deleted. */
struct cs_park *cs_park_free(struct cs_park *park);
CS_DEFINE_AUTO(cs_park);

/* ---- a parked guest */

struct cs_parked {
	int memory_fd, state_fd;
	bool from_memory;
};

/* Does the guest's folder (dirfd) hold a valid ticket? Of one that runs that says nothing. */
bool cs_parked_there(int dirfd);

/* Open what is parked in (dirfd): the descriptors are the caller's. -ENOENT, without words: nothing
 * is; -EBADMSG: it is broken. */
int cs_parked_open(int dirfd, struct cs_parked *ret, struct cs_err *err);
void cs_parked_closep(struct cs_parked *parked);

/* The state is what was written: -EBADMSG with words. Reads all of it. */
int cs_parked_check(struct cs_store *store, const char *guest, struct cs_err *err);

/* The guest in (dirfd) goes on from what is open, or is to begin anew: forget it. (sync): before
 * this returns; otherwise a power cut may bring it back. */
int cs_parked_forget(int dirfd, bool sync, struct cs_err *err);

/* The same of a guest that does not run, under its lock. */
int cs_parked_drop(struct cs_store *store, const char *guest, struct cs_err *err);

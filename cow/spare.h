/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Spares: monitors that have made a machine before anybody wants a guest, so that a spawn only has
 * to give it a name.
 *
 *   1. A keeper forks the process that is to be one. That makes its folder, guests/.spares/PID/,
 *      locked for as long as it is nobody's guest (cs_spare_make()); opens its files there, binds
 *      its sockets, makes the machine but for its state, and enters its sandbox.
 *   2. The keeper hears that it waits, and offers it by renaming that folder to
 *      PID-VCPUS-BYTES-TEMPLATE@VERSION (cs_spare_offer()).
 *   3. A spawner takes it (cs_spare_take()): renames the folder into .marks/, which only one can;
 *      puts the guest's card and mark there, then the folder in its place; and sends the card
 *      through control.sock.
 *   4. The spare hears that (cs_spare_await()), unlocks its folder, and is the guest from then on.
 *
 * When the keeper dies before 3, the spare ends by itself. What a dead one leaves is swept: its
 * folder is not locked any more; behind the last rename of 3 it is a guest that crashed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "cow/card.h"
#include "store/base/err.h"
#include "store/store.h"
#include "store/template.h"

/* Make the folder of this process; *ret_dirfd and the lock *ret_lock_fd are the caller's. */
int cs_spare_make(struct cs_store *store, int *ret_dirfd, int *ret_lock_fd, struct cs_err *err);

/* Offer (pid), which waits, to whoever wants a guest like (card): of its template, version,
 * ram_bytes and vcpus. */
int cs_spare_offer(struct cs_store *store, pid_t pid, const struct cs_card *card,
		   struct cs_err *err);

/* Nobody has taken (pid), offered as (card), so far. */
bool cs_spare_is_offered(struct cs_store *store, pid_t pid, const struct cs_card *card);

/* How many are on offer for guests like (card). */
size_t cs_spare_count(struct cs_store *store, const struct cs_card *card);

/* Take one for the new guest (card). *ret_pid is its process, no child of ours; *ret_fd, the
 * caller's, will say what an event_fd says (vmm/machine.h: 'R', 'A', or 'E' and a struct cs_err).
 * Caller holds the shared store lock. -ENOENT: none fits. -EEXIST with words: the name is taken;
 * that spare is still on offer. */
int cs_spare_take(struct cs_store *store, const struct cs_template *t, const struct cs_card *card,
		  pid_t *ret_pid, int *ret_fd, struct cs_err *err);

/* In the spare: wait at its listening control socket until root, or user (uid), makes it a guest,
 * whose card is *ret then; *ret_fd is the connection to who waits for it. Both are the caller's.
 * (keeper_fd): a pipe's end for writing. -ECANCELED: its reader is gone; -EBADMSG: what came is no
 * card. */
int cs_spare_await(int listen_fd, int keeper_fd, uid_t uid, struct cs_card **ret, int *ret_fd,
		   struct cs_err *err);

/* Delete the folders of dead ones; cs_overlay_sweep() calls it. */
int cs_spare_sweep(struct cs_store *store, struct cs_err *err);

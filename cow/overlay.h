/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Overlays: what is private to a guest: a writable clone of the disk, and a map of RAM in which
 * every template page is borrowed until the guest first writes to it. */
#pragma once

#include "cow/card.h"
#include "store/base/err.h"
#include "store/base/guest.h"
#include "store/base/own.h"
#include "store/store.h"
#include "store/template.h"

struct cs_overlay;

/* Make the folder and card of a new guest, and its disk when card->persist (cloned by the first of
 * the clone table that can). All or nothing, also under kill -9: built in .marks, put in place by
 * rename. Of (card), pid and started are taken as 0, disk_bytes is how large the disk is to be (0:
 * as the template's); that and boot are filled in what is stored. The folder is 0711: the monitor,
 * which has no rights, passes through it by descriptor. -EEXIST: the name is taken. -EINVAL: a name
 * or a size is not legal. Caller holds the shared store lock. */
int cs_overlay_create(struct cs_store *store, const struct cs_template *t,
		      const struct cs_card *card, struct cs_err *err);

/* Open the disk in a guest's folder (dirfd), also for writing: the descriptor, the caller's, or
 * -errno. Where quotas are on (store/quota.h) it lies one folder deeper. */
int cs_overlay_open_disk(int dirfd, bool write);

/* Open the overlay of a guest that exists: maps nothing yet (ram has gpa and bytes, host is NULL).
 * (t) must outlive it: its pages and descriptors are borrowed. -EINVAL: (t) is not the template and
 * version of the card, -EBADMSG: the disk is no disk. */
int cs_overlay_open(struct cs_store *store, const struct cs_template *t, const struct cs_card *card,
		    struct cs_overlay **ret, struct cs_err *err);

/* The same of a guest that has no name yet, in its folder (dirfd), which is lent; what the card
 * needs is template, version, ram_bytes and resume. */
int cs_overlay_open_unnamed(struct cs_store *store, const struct cs_template *t,
			    const struct cs_card *card, int dirfd, struct cs_overlay **ret,
			    struct cs_err *err);

/* Map RAM and the shared root into this process (cheap; called in the process that becomes the
 * monitor). How: cow/ram.h. A guest that goes on from its template's saved machine has its own
 * copies at once of the pages that all such write to when they wake (store/hot.h). */
int cs_overlay_map(struct cs_overlay *overlay, struct cs_err *err);

/* What its guest will read or write, to be mapped in KVM, too, where that can be done at once: when
 * it wakes; with a process, written; with a process, read. Lent, *ret_n ranges, counted as in the
 * MEMORY part; NULL: not known. */
enum cs_overlay_use {
	CS_USE_WAKE,
	CS_USE_EXEC_WRITE,
	CS_USE_EXEC_READ,
};
const struct cs_page_range *cs_overlay_use(const struct cs_overlay *overlay,
					   enum cs_overlay_use use, size_t *ret_n);

/* It is mapped, and a process will be started in it: its own copies of what that costs, too. */
void cs_overlay_expect_exec(const struct cs_overlay *overlay);

const struct cs_ram *cs_overlay_ram(const struct cs_overlay *overlay);
/* What the COW segments are mapped from, one behind the other; lent. NULL: there are none. */
const struct cs_view *cs_overlay_memory(const struct cs_overlay *overlay);
const struct cs_disk *cs_overlay_disk(const struct cs_overlay *overlay); /* NULL: none */
const struct cs_boot *cs_overlay_boot(const struct cs_overlay *overlay);
int cs_overlay_dirfd(const struct cs_overlay *overlay); /* lent: guests/<name> */

/* It was parked when it was opened: the boot says to go on from there. */
bool cs_overlay_parked(const struct cs_overlay *overlay);

/* The machine was made from that, and is about to run: forget it, so that nobody goes on from there
 * again. On failure it must not run, and is still parked. */
int cs_overlay_woken(struct cs_overlay *overlay, struct cs_err *err);

/* Delete a guest that does not run, a broken one too. -EBUSY while it does, -ENOENT. A guest that
 * is being started or deleted by another is waited for. */
int cs_overlay_remove(struct cs_store *store, const char *guest, struct cs_err *err);

/* Sweep what dead guests left: stale sockets, half-made and half-deleted folders, `run` guests
 * whose owner died (killed by pid and start time, then removed; while the owner lives they are its
 * business). Every command calls it: it costs a directory entry and a system call for each running
 * guest, and one look at every guest after a boot of the host. With more than 64 guests it does
 * nothing when another command did it in the second before. Never waits for others. What fails
 * does not keep the rest from being swept; the first failure is returned. */
int cs_overlay_sweep(struct cs_store *store, struct cs_err *err);

struct cs_overlay *cs_overlay_free(struct cs_overlay *overlay); /* unmaps; the disk stays */
CS_DEFINE_AUTO(cs_overlay);

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
 * the clone table that can). All or nothing, built under a dot name. -EEXIST: the name is taken.
 * Caller holds the shared store lock. */
int cs_overlay_create(struct cs_store *store, const struct cs_template *t,
		      const struct cs_card *card, struct cs_err *err);

/* Open the overlay of a guest that exists: maps nothing yet. (t) must outlive it: its pages are
 * borrowed. */
int cs_overlay_open(struct cs_store *store, const struct cs_template *t, const struct cs_card *card,
		    struct cs_overlay **ret, struct cs_err *err);

/* Map RAM and the shared root into this process (cheap; called in the process that becomes the
 * monitor). */
int cs_overlay_map(struct cs_overlay *overlay, struct cs_err *err);

const struct cs_ram *cs_overlay_ram(const struct cs_overlay *overlay);
const struct cs_disk *cs_overlay_disk(const struct cs_overlay *overlay); /* NULL: none */
const struct cs_boot *cs_overlay_boot(const struct cs_overlay *overlay);
int cs_overlay_dirfd(const struct cs_overlay *overlay); /* lent: guests/<name> */

/* Delete a guest that does not run. -EBUSY while it does. */
int cs_overlay_remove(struct cs_store *store, const char *guest, struct cs_err *err);

/* Sweep what dead guests left: stale sockets, half-made folders, `run` guests whose owner died
 * (killed by pid and start time, then removed). Cheap when there is nothing; every command calls
 * it. */
int cs_overlay_sweep(struct cs_store *store, struct cs_err *err);

struct cs_overlay *cs_overlay_free(struct cs_overlay *overlay); /* unmaps; the disk stays */
CS_DEFINE_AUTO(cs_overlay);

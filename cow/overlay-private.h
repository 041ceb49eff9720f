/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What overlay-folder.c and sweep.c know of each other. */
#pragma once

#include "cow/card.h"
#include "store/base/err.h"
#include "store/store.h"

/* Make the empty folder (name) in (parent_fd), locked by us until *ret, the caller's, is closed.
 * Another maker of the same name is waited for; what a dead one left is deleted. */
int cs_folder_make(int parent_fd, const char *name, int *ret, struct cs_err *err);

/* Put (half), a guest's folder in .marks that holds all that (card)'s guest is to have, in place.
 * -EEXIST with words: there is one of its name, and (half) is where it was. */
int cs_overlay_publish(struct cs_store *store, int marks_fd, const char *half,
		       const struct cs_card *card, struct cs_err *err);

/* Delete what was a guest's folder, (name) in .marks. Missing is fine; -errno. */
int cs_folder_delete(int marks_fd, const char *name);

/* Delete the guest whose folder is locked by us and which does not run; (card) NULL: broken. A kill
 * in between leaves .marks/old-NAME, which the next sweep deletes. */
int cs_overlay_delete(struct cs_store *store, int marks_fd, const char *guest,
		      const struct cs_card *card, struct cs_err *err);

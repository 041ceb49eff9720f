/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What overlay-folder.c and sweep.c know of each other. */
#pragma once

#include "cow/card.h"
#include "store/base/err.h"
#include "store/store.h"

/* Delete what was a guest's folder, (name) in .marks. Missing is fine; -errno. */
int cs_folder_delete(int marks_fd, const char *name);

/* Delete the guest whose folder is locked by us and which does not run; (card) NULL: broken. A kill
 * in between leaves .marks/old-NAME, which the next sweep deletes. */
int cs_overlay_delete(struct cs_store *store, int marks_fd, const char *guest,
		      const struct cs_card *card, struct cs_err *err);

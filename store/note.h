/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Notes about versions, which are sealed, so that a note is not in one: <root>/FOLDER/NAME@VERSION,
 * text. They go with the version. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "store/base/err.h"
#include "store/store.h"

/* Note (text), for good; replaces an earlier note. -errno with words. */
int cs_note_put(const struct cs_store *store, const char *folder, const char *name,
		const char *version, const char *text, struct cs_err *err);

/* The note, at most (max) bytes, which the caller frees. -ENOENT: there is none; -EFBIG. */
int cs_note_get(const struct cs_store *store, const char *folder, const char *name,
		const char *version, size_t max, char **ret);

/* Is there any note in (folder)? True also when that cannot be told. */
bool cs_note_any(const struct cs_store *store, const char *folder);

#define CS_NOTE_QUARANTINE "quarantine" /* store/quarantine.h */
#define CS_NOTE_HOT        "hot"        /* store/hot.h */

/* Take the note away, if there is one. (version) NULL: of all versions of (name). */
void cs_note_lift(const struct cs_store *store, const char *folder, const char *name,
		  const char *version);

/* The same in all folders: the version is removed. */
void cs_note_forget(const struct cs_store *store, const char *name, const char *version);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Versions that were found damaged: <root>/quarantine/NAME@VERSION says why. No guest is spawned
 * from one; those that run of it go on. A version is sealed, so the note is not in it. */
#pragma once

#include <stdbool.h>

#include "store/base/err.h"
#include "store/store.h"

#define CS_QUARANTINE_TEXT 320

/* Note (words), for good; replaces an earlier note. */
int cs_quarantine_put(struct cs_store *store, const char *name, const char *version,
		      const char *words, struct cs_err *err);

/* Is there any note, of whatever version? True also when that cannot be told. */
bool cs_quarantine_any(const struct cs_store *store);

/* Is there a note? (words) is filled then; one that cannot be read counts. */
bool cs_quarantine_get(const struct cs_store *store, const char *name, const char *version,
		       char words[CS_QUARANTINE_TEXT]);

/* Take the note away, if there is one. (version) NULL: of all versions of (name). */
void cs_quarantine_lift(const struct cs_store *store, const char *name, const char *version);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/quarantine.h"

#include <errno.h>
#include <stdio.h>

#include "store/base/own.h"
#include "store/base/text.h"
#include "store/note.h"

#define NOTE_MAX 4096

int cs_quarantine_put(struct cs_store *store, const char *name, const char *version,
		      const char *words, struct cs_err *err)
{
	int r = cs_note_put(store, CS_NOTE_QUARANTINE, name, version, words, err);

	return r < 0 ? cs_fail_in(err, r, "cannot note that '%s@%s' is damaged", name, version) : 0;
}

bool cs_quarantine_any(const struct cs_store *store)
{
	return cs_note_any(store, CS_NOTE_QUARANTINE);
}

bool cs_quarantine_get(const struct cs_store *store, const char *name, const char *version,
		       char words[CS_QUARANTINE_TEXT])
{
	cs_auto(cs_mem_freep) char *text = NULL;
	int r;

	r = cs_note_get(store, CS_NOTE_QUARANTINE, name, version, NOTE_MAX, &text);
	if (r == -ENOENT)
		return false;
	snprintf(words, CS_QUARANTINE_TEXT, "%s",
		 r == 0 && text[0] ? cs_text_clean(text, false) : "damaged");
	return true;
}

void cs_quarantine_lift(const struct cs_store *store, const char *name, const char *version)
{
	cs_note_lift(store, CS_NOTE_QUARANTINE, name, version);
}

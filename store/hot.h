/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pages of a saved machine that each of its clones writes to, or reads, when it wakes, and when
 * the first process is started in it. They are found out once (vmm/cmd-learn.c); a clone gets its
 * copies of the former, and where KVM can all of them mapped, at once instead of by a fault each.
 * <root>/hot/NAME@VERSION (docs/formats.md). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/guest.h"
#include "store/base/own.h"
#include "store/store.h"
#include "store/template.h"

#define CS_HOT_PAGES_MAX 8192 /* of one kind: 32 MiB; who needs more gains nothing that shows */

enum cs_hot_kind {
	CS_HOT_WAKE,      /* written within the first second, by itself */
	CS_HOT_EXEC,      /* besides, with the first process */
	CS_HOT_WAKE_SEEN, /* read or written in that second */
	CS_HOT_EXEC_SEEN, /* only read with the first process, and not seen before */
	CS_HOT_KINDS,
};

/* Ranges of pages of the MEMORY part, ascending, none touching the next. */
struct cs_hot_list {
	struct cs_page_range *range;
	size_t n;
	uint64_t pages; /* in all */
};

struct cs_hot {
	struct cs_hot_list list[CS_HOT_KINDS];
};

/* Add (page), which is behind all that are in it. -ENOMEM; -E2BIG: there are CS_HOT_PAGES_MAX. */
int cs_hot_add(struct cs_hot_list *list, uint32_t page);

bool cs_hot_has(const struct cs_hot_list *list, uint64_t page);

/* Keep (hot) with the version that (t) is. -errno with words. */
int cs_hot_put(const struct cs_store *store, const struct cs_template *t, const struct cs_hot *hot,
	       struct cs_err *err);

/* What is kept with (t); *ret is empty on failure. -ENOENT: nothing, or of another machine than the
 * one saved there; -EBADMSG: it is no such list, or names pages that the machine does not have. */
int cs_hot_get(const struct cs_store *store, const struct cs_template *t, struct cs_hot *ret);

/* Forget it. (version) NULL: of all versions of (name). */
void cs_hot_remove(const struct cs_store *store, const char *name, const char *version);

void cs_hot_clear(struct cs_hot *hot); /* empty again */

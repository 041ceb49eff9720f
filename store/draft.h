/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A version of a template in the making: a subvolume under a dot name, published by one rename, or
 * gone. All or nothing, also under kill -9: the next cs_store_open() sweeps.
 *
 * Of a new template: templates/.NAME.new/1, in a folder that is renamed to NAME. Of one more
 * version: templates/NAME/.N.new, renamed to N; that one is being made there is told by the
 * folder templates/.NAME@N.new, which has the scratch files, so that a sweep need not look into
 * every template. The maker holds a lock on the first of these folders, and of a version on
 * templates/NAME too, so that nobody removes the template under it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"
#include "store/media.h"
#include "store/store.h"
#include "store/template.h"

struct cs_draft;
struct cs_manifest;

/* Version 1 of a new template (name), empty, or with all that (from) holds (NULL: empty). -EEXIST:
 * there is one; -EBUSY: another process makes it right now. */
int cs_draft_create(struct cs_store *store, const char *name, const struct cs_template *from,
		    struct cs_draft **ret, struct cs_err *err);

/* The next version of the template of (from), with all that (from) holds. It will be the active one
 * when (from) is. -EBUSY: another process works on it. */
int cs_draft_create_version(struct cs_store *store, const struct cs_template *from,
			    struct cs_draft **ret, struct cs_err *err);

int cs_draft_dirfd(const struct cs_draft *draft);  /* of the version; lent */
int cs_draft_folder(const struct cs_draft *draft); /* scratch room, not published; lent */
const char *cs_draft_version(const struct cs_draft *draft);

/* One more version: it shall be the active one, or shall not. */
void cs_draft_activate(struct cs_draft *draft, bool activate);

/* What will be published; parts are filled in by cs_draft_seal_part(). A copy of (from)'s, or
 * zeroed. */
struct cs_manifest *cs_draft_manifest(struct cs_draft *draft);

/* The file of (part), read and write, the caller's. (keep): with what (from) has in it, otherwise
 * empty. */
int cs_draft_open_part(struct cs_draft *draft, enum cs_part part, bool keep, int *ret,
		       struct cs_err *err);

/* The contents of (from_fd) into the empty file (to_fd): 1: by sharing its blocks, 0: copied. */
int cs_draft_clone(int from_fd, uint64_t bytes, int to_fd, struct cs_err *err);

/* Take the finished file of (part) in: hash it, make it read-only. */
int cs_draft_seal_part(struct cs_draft *draft, enum cs_part part, struct cs_err *err);

/* Put the finished (part) onto another medium (media.h). */
int cs_draft_place_part(struct cs_draft *draft, enum cs_part part, const struct cs_media_spec *spec,
			struct cs_err *err);

/* So many bytes of (part), which was made anew, lie in blocks of the same part of (from). */
void cs_draft_part_shares(struct cs_draft *draft, enum cs_part part, uint64_t bytes);

/* Does the draft have (part) as (from) has it? */
bool cs_draft_keeps(const struct cs_draft *draft, enum cs_part part);

/* Leave (part) out. */
int cs_draft_drop_part(struct cs_draft *draft, enum cs_part part, struct cs_err *err);

/* Write the manifest, seal, publish: a new template is there, or the new version, and is the active
 * one if it shall be. Then of (from), in whose place it is, nothing is left unless (user) says that
 * it is borrowed. (user) NULL, or not the active one: it stays. -EEXIST: another was faster. The
 * draft is done with, also on failure. */
int cs_draft_publish(struct cs_draft *draft, const struct cs_template_user *user,
		     struct cs_err *err);

/* Takes away what was not published. */
struct cs_draft *cs_draft_free(struct cs_draft *draft);
CS_DEFINE_AUTO(cs_draft);

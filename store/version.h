/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Versions of a template. New guests get the active one; guests that there are keep theirs, and a
 * version that one of them borrows is never removed. A switch is one rename of the link "active".
 */
#pragma once

#include <stdbool.h>

#include "store/base/err.h"
#include "store/base/name.h"
#include "store/store.h"
#include "store/template.h"

#define CS_VERSION_TEXT (CS_NAME_MAX + 1)

/* The version that new guests of (name) get. -ENOENT: no such template, or it has none active. */
int cs_version_active(struct cs_store *store, const char *name, char ret[CS_VERSION_TEXT],
		      struct cs_err *err);

/* Visit the versions of (name), oldest first; one that is broken comes with (t) NULL and (broken).
 * fn returns 0 to go on, anything else ends the walk and is returned. -ENOENT. */
struct cs_version {
	const char *version;
	bool active;
	const struct cs_template *t;
	const struct cs_err *broken;
};
typedef int (*cs_version_fn)(const struct cs_version *version, void *arg);
int cs_version_each(struct cs_store *store, const char *name, cs_version_fn fn, void *arg,
		    struct cs_err *err);

/* Their names alone, in the same order. */
int cs_version_names(struct cs_store *store, const char *name,
		     int (*fn)(const char *version, void *arg), void *arg, struct cs_err *err);

/* Let new guests of (name) have (version) from now on; (before) is set to the one that they had, or
 * "". Under a kill it is the one or the other. -ENOENT; -EBADMSG and more: it is broken. */
int cs_version_activate(struct cs_store *store, const char *name, const char *version,
			char before[CS_VERSION_TEXT], struct cs_err *err);

/* The same with the one before the active one, by number, that is not broken. *ret: its name.
 * -ENOENT: there is none. */
int cs_version_rollback(struct cs_store *store, const char *name, char ret[CS_VERSION_TEXT],
			struct cs_err *err);

/* Remove one version. -EBUSY: it is the active one, a guest has it, or another process works on
 * the template. -ENOENT. */
int cs_version_remove(struct cs_store *store, const char *name, const char *version,
		      const struct cs_template_user *user, struct cs_err *err);

/* Remove what is neither among the (keep) newest, nor active, nor borrowed. (gone) is called for
 * each as it goes; it returns 0. */
struct cs_prune {
	const char *name;
	unsigned keep; /* 1 at least, so that no number comes twice */
	const struct cs_template_user *user;
	void (*gone)(void *arg, const char *version);
	void *arg;
};
int cs_version_prune(struct cs_store *store, const struct cs_prune *prune, struct cs_err *err);

/* ---- for those who make versions: (dirfd) is the template's folder ---- */

/* The number behind the highest that is there. */
int cs_version_next(int dirfd, char ret[CS_VERSION_TEXT], struct cs_err *err);

/* What the link says, which must be a plain name. */
int cs_version_read(int dirfd, char ret[CS_VERSION_TEXT], struct cs_err *err);

/* Open the folder of the version that new guests of (name) get, *ret, in two calls instead of four:
 * the caller's, to find files from (O_PATH). No link is followed but that. -errno, whatever is
 * wrong with it, and *ret is then nothing: who wants words goes there step by step. */
int cs_version_open_active(int templates_fd, const char *name, char ret[CS_VERSION_TEXT]);

/* Lead the link to (version), for good. Under the exclusive store lock. */
int cs_version_point(struct cs_store *store, const char *name, int dirfd, const char *version,
		     struct cs_err *err);

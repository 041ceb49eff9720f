/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where parts lie: in the store, or on persistent memory that the processor reaches without a copy.
 * On a medium outside the store, what no version refers to any more is swept: by whoever puts
 * something there, removes a version that has something there, or checks the store. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/guest.h"
#include "store/manifest.h"
#include "store/store.h"

/* What a user says: "file", "fsdax:/mnt/pmem", "devdax:/dev/dax0.0", "auto". */
struct cs_media_spec {
	enum cs_media kind;
	char place[CS_MEDIA_WHERE]; /* a folder on a DAX mount, a device; "": in the store */
};

/* Take (text) apart. "auto": a mounted DAX file system with room for (bytes), the one with most;
 * none: the store. -EINVAL with words. */
int cs_media_parse(const char *text, uint64_t bytes, struct cs_media_spec *ret, struct cs_err *err);

/* The medium of a part that is on one, for another part or version. */
void cs_media_of(const struct cs_manifest_part *part, struct cs_media_spec *ret);

/* Open a part that is not in the store, as its manifest says: *ret with a descriptor of the
 * caller's. -ENODEV: its medium is not there (mount it); -EBADMSG: it is not what the manifest
 * promises, or no longer on DAX. */
int cs_media_open(const struct cs_manifest_part *part, struct cs_view *ret, struct cs_err *err);

/* What (view) shows of a DAX device, which cannot be read, into the new file (name) in (dirfd). */
int cs_media_copy_out(const struct cs_view *view, int dirfd, const char *name, struct cs_err *err);

/* Copy the first (bytes) of (from_fd) to a medium as (name), "web@3.root", or one that begins so,
 * for good, and read it back. In (part), media, where, offset and stored_bytes are set. *ret_fd
 * holds it against sweeps until there is a version that refers to it: to be closed then. -ENOSPC;
 * -EOPNOTSUPP: not DAX. */
struct cs_media_piece {
	const char *name;
	int from_fd;
	uint64_t bytes;
};
int cs_media_place(struct cs_store *store, const struct cs_media_spec *spec,
		   const struct cs_media_piece *piece, struct cs_manifest_part *part, int *ret_fd,
		   struct cs_err *err);

/* The media that versions are on which are about to be removed. */
#define CS_MEDIA_USED 8
struct cs_media_used {
	struct cs_media_spec v[CS_MEDIA_USED];
	size_t n;
};

/* Note those of the version in the folder (dirfd). More than there is room for wait for the next
 * sweep of theirs. */
void cs_media_note(struct cs_media_used *used, int dirfd);

/* Sweep them, when the versions are gone; a medium that is not there has time. As below. */
void cs_media_sweep_used(struct cs_store *store, const struct cs_media_used *used);

/* The same of all media that the store was ever on (<root>/media, a line each). The caller has the
 * store's exclusive lock. */
int cs_media_sweep_all(struct cs_store *store, struct cs_err *err);

/* Remove what this store has on the medium and no version refers to. The caller has the store's
 * exclusive lock. A version that cannot be read might refer to anything: then nothing goes. */
int cs_media_sweep(struct cs_store *store, const struct cs_media_spec *spec, struct cs_err *err);

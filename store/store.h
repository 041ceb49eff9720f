/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The store: a root folder with templates/ and guests/. On Btrfs for the full effect; any file
 * system works. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"

#define CS_STORE_DEFAULT "/var/lib/clearstore"
#define CS_STORE_FORMAT  1

struct cs_store;

/* Open the store at (root). If (root) holds no store but "<root>.img" is a clearstore loop image,
 * it is mounted first (pool.h): so the store is there again after a reboot. Half-made templates
 * whose maker is dead are swept. -ENOENT: no store (way out: clearstore init), -EPROTO: made by a
 * newer clearstore (format in store.json), -EACCES. The caller frees. */
int cs_store_open(const char *root, struct cs_store **ret, struct cs_err *err);

const char *cs_store_root(const struct cs_store *store);
int cs_store_dirfd(const struct cs_store *store);        /* lent */
int cs_store_templates_fd(const struct cs_store *store); /* lent: <root>/templates */
int cs_store_guests_fd(const struct cs_store *store);    /* lent: <root>/guests */
bool cs_store_is_btrfs(const struct cs_store *store);

/* What was swept when it was opened: its name; NULL behind the last. */
const char *cs_store_swept(const struct cs_store *store, size_t i);

/* A name for this store that no other has, for what it keeps elsewhere; made when it is first asked
 * for. 32 hex digits. */
#define CS_STORE_ID_TEXT 33
int cs_store_id(struct cs_store *store, char ret[CS_STORE_ID_TEXT], struct cs_err *err);

/* A descriptor (O_PATH) of the image under the store, to ask its file system how it is; *ret is the
 * caller's. -ENOENT: the store is a folder. */
int cs_store_open_under(const struct cs_store *store, int *ret, struct cs_err *err);

/* Bytes that can still be written to the store: what its file system has free, and for a sparse
 * image what the file system under the image has free. */
int cs_store_space(const struct cs_store *store, uint64_t *ret_bytes, struct cs_err *err);

/* Take the store's lock: shared while a guest is enrolled on a template (spawn, start), exclusive
 * while one is removed or published. Blocks. *ret is a descriptor; closing it unlocks. */
int cs_store_lock(const struct cs_store *store, bool exclusive, int *ret, struct cs_err *err);

/* Make the folders and store.json of a new store in the folder (dirfd); store.json comes last, and
 * lasts. Also repairs a store whose making was killed. */
int cs_store_format(int dirfd, struct cs_err *err);

/* Is the folder (dirfd) a store that this version knows? -ENOENT: none, -EPROTO: of a newer
 * version, -EBADMSG: store.json is broken. (where) is for the words. */
int cs_store_check(int dirfd, const char *where, struct cs_err *err);

struct cs_store *cs_store_free(struct cs_store *store);
CS_DEFINE_AUTO(cs_store);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whose blocks are whose. Owners (a version, a guest) give their files; blocks are told apart by
 * where the file system says that they are (FIEMAP), so what several have is seen, however they
 * came by it: snapshot, reflink or clone of a run. Owners of a group (the versions of a template)
 * are counted together as well. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"

struct cs_space;

int cs_space_open(struct cs_space **ret, struct cs_err *err);

/* A new group; a new owner in (group). Both are numbered from 0. -ENOMEM. */
int cs_space_group(struct cs_space *space, size_t *ret, struct cs_err *err);
int cs_space_owner(struct cs_space *space, size_t group, size_t *ret, struct cs_err *err);

/* All of the open file (fd) is (owner)'s. What is not on the disk yet is written first. What a file
 * system keeps inside its own structures counts as none. -EOPNOTSUPP: it cannot say where. */
int cs_space_file(struct cs_space *space, size_t owner, int fd, struct cs_err *err);

/* The same without a file: (bytes) from (start) on, wherever that is. */
int cs_space_extent(struct cs_space *space, size_t owner, uint64_t start, uint64_t bytes);

/* Each (owner)'s regular files in the folder (dirfd), not in folders below. */
int cs_space_folder(struct cs_space *space, size_t owner, int dirfd, struct cs_err *err);

struct cs_space_count {
	uint64_t logical_bytes; /* lengths of the files */
	uint64_t held_bytes;    /* blocks, each once */
	uint64_t alone_bytes;   /* of these, what nobody else has */
};

/* Count; when all was given. */
void cs_space_sum(struct cs_space *space);
void cs_space_of_owner(const struct cs_space *space, size_t owner, struct cs_space_count *ret);
void cs_space_of_group(const struct cs_space *space, size_t group, struct cs_space_count *ret);
uint64_t cs_space_held(const struct cs_space *space); /* all blocks of all owners, each once */

/* What the file system of (dirfd) says is used. On Btrfs contents and the rest are told apart,
 * unless they are (mixed); elsewhere all is contents. */
struct cs_space_used {
	uint64_t data_bytes, metadata_bytes;
	uint64_t free_bytes; /* for contents */
	bool mixed;
};
int cs_space_used(int dirfd, struct cs_space_used *ret, struct cs_err *err);

struct cs_space *cs_space_free(struct cs_space *space);
CS_DEFINE_AUTO(cs_space);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A tree of files in memory: what an importer reads and what an image is written from. Nothing of
 * it ever touches the host's own file systems, so a hostile archive has no path to escape by: its
 * links and ".." are followed inside this tree only, its devices and setuid bits are numbers here.
 * File contents are not kept in memory: they go to the image as they come (image.h). */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "store/base/err.h"
#include "store/base/own.h"

struct cs_attr {
	mode_t mode; /* with the file type */
	uid_t uid;
	gid_t gid;
	dev_t device; /* of S_IFCHR and S_IFBLK */
	struct timespec mtime;
};

struct cs_xattr {
	struct cs_xattr *next;
	char *name; /* whole: "security.capability" */
	void *value;
	size_t bytes;
};

/* A run of a file's bytes in the image; both in units of the image's 4 KiB blocks. */
struct cs_extent {
	uint64_t file_block, image_block, blocks;
};

struct cs_node {
	struct cs_node *next; /* all nodes of the tree, in order of birth */
	struct cs_attr attr;
	uint64_t bytes; /* of a regular file */
	uint32_t links; /* names that lead here; 0: replaced since */
	struct cs_xattr *xattrs;
	/* a folder's */
	struct cs_node *parent; /* the root's is the root */
	void *entries;          /* a tsearch(3) tree of struct cs_entry, by name */
	uint32_t entry_count, folders;
	/* a symbolic link's */
	char *target;
	/* a regular file's: ascending, none when it is all hole */
	struct cs_extent *extents;
	size_t extent_count;
	unsigned chunk_bits; /* extents begin and end on multiples of 1 << chunk_bits bytes */
	/* the image writer's */
	struct cs_node *queue;
	uint64_t nid, data_block, data_bytes;
};

struct cs_entry {
	struct cs_node *node;
	char name[];
};

struct cs_tree;

/* An empty tree: a root folder of mode 0755 that belongs to root. */
int cs_tree_open(struct cs_tree **ret, struct cs_err *err);

/* Make or replace what is at (path). Symbolic links on the way are followed inside the tree, a last
 * one is replaced; missing folders on the way are made (0755, root). A folder over a folder takes
 * the new attributes; anything else over a folder that is not empty is -EEXIST. (target) is of a
 * symbolic link, NULL otherwise. *ret is lent. -ENOTDIR, -ELOOP, -ENAMETOOLONG, -EMLINK (too many
 * entries or too deep), -ENOMEM: all with words that name (path). */
struct cs_tree_item {
	const char *path, *target;
	const struct cs_attr *attr;
};
int cs_tree_add(struct cs_tree *tree, const struct cs_tree_item *item, struct cs_node **ret,
		struct cs_err *err);

/* Make (path) another name of the file at (existing), which must be there and no folder. */
int cs_tree_link(struct cs_tree *tree, const char *path, const char *existing, struct cs_err *err);

/* As cs_tree_add() for (name) in the folder (dir) itself: for an importer that walks a real folder.
 * (node) not NULL: give that one another name. */
int cs_tree_add_in(struct cs_tree *tree, struct cs_node *dir, const struct cs_tree_item *item,
		   struct cs_node **ret, struct cs_err *err);
int cs_tree_link_in(struct cs_tree *tree, struct cs_node *dir, const char *name,
		    struct cs_node *node, struct cs_err *err);

/* Set an extended attribute; replaces one of that name. */
int cs_tree_xattr(struct cs_node *node, const char *name, const void *value, size_t bytes);

/* What is at (path), all links followed inside the tree; NULL when there is nothing. Lent. */
struct cs_node *cs_tree_find(struct cs_tree *tree, const char *path);

struct cs_node *cs_tree_root(struct cs_tree *tree);
uint64_t cs_tree_count(const struct cs_tree *tree); /* nodes that have a name */

/* Visit the entries of (dir) in the order of their bytes; fn returns 0 to go on. */
typedef int (*cs_entry_fn)(const struct cs_entry *entry, void *arg);
int cs_tree_entries(const struct cs_node *dir, cs_entry_fn fn, void *arg);

struct cs_tree *cs_tree_free(struct cs_tree *tree);
CS_DEFINE_AUTO(cs_tree);

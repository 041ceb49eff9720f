/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "store/base/guest.h"
#include "store/base/num.h"
#include "store/base/run.h"
#include "store/erofs.h"
#include "store/import.h"

#define AGENT_PATH "/sbin/clearstore-agent"

struct cs_rootfs {
	int fd; /* lent */
	struct cs_tree *tree;
	struct cs_image *image;
	struct cs_import import;
};

static int import(struct cs_rootfs *rootfs, const char *from, struct cs_err *err)
{
	struct stat st;
	int r;

	if (stat(from, &st) < 0)
		return cs_fail_errno(err, errno, "'%.300s'", from);
	if (S_ISDIR(st.st_mode))
		return cs_import_dir(&rootfs->import, from, err);
	r = cs_import_archive(&rootfs->import, from, err);
	return r < 0 ? cs_fail_in(err, r, "'%.150s'", from) : 0;
}

/* What a guest mounts over; a root made for a container may lack them. */
static int add_mount_points(struct cs_rootfs *rootfs, struct cs_err *err)
{
	static const struct {
		const char *path;
		mode_t mode;
	} points[] = {
		{ "proc", 0555 }, { "sys", 0555 },  { "dev", 0755 },
		{ "run", 0755 },  { "tmp", 01777 },
	};
	struct cs_node *node;
	int r;

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		const struct cs_attr attr = { .mode = S_IFDIR | points[i].mode };
		const struct cs_tree_item item = { .path = points[i].path, .attr = &attr };

		if (cs_tree_find(rootfs->tree, points[i].path))
			continue;
		r = cs_tree_add(rootfs->tree, &item, &node, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int add_agent(struct cs_rootfs *rootfs, const char *agent, struct cs_err *err)
{
	const struct cs_attr attr = { .mode = S_IFREG | 0755 };
	const struct cs_tree_item item = { .path = AGENT_PATH, .attr = &attr };
	cs_auto(cs_fd_closep) int fd = open(agent, O_RDONLY | O_CLOEXEC);
	struct cs_import import = { .tree = rootfs->tree, .image = rootfs->image };
	struct cs_node *node;
	int r;

	if (fd < 0)
		return cs_fail_errno(err, errno, "agent '%s'", agent);
	r = cs_tree_add(rootfs->tree, &item, &node, err);
	if (r == 0)
		r = cs_import_file(&import, node, fd, err);
	return r < 0 ? cs_fail_in(err, r, "agent '%s'", agent) : 0;
}

int cs_rootfs_open(int fd, const struct cs_rootfs_spec *spec, struct cs_rootfs **ret,
		   struct cs_err *err)
{
	cs_auto(cs_rootfs_freep) struct cs_rootfs *rootfs = calloc(1, sizeof(*rootfs));
	int r;

	if (!rootfs)
		return cs_fail_errno(err, ENOMEM, "root");
	rootfs->fd = fd;
	r = cs_tree_open(&rootfs->tree, err);
	if (r == 0)
		r = cs_image_open(fd, CS_EROFS_SKIP, spec->max_bytes, &rootfs->image, err);
	if (r < 0)
		return r;
	if (spec->share)
		cs_image_share(rootfs->image, spec->share);
	rootfs->import = (struct cs_import){
		.tree = rootfs->tree,
		.image = rootfs->image,
		.progress = spec->progress,
	};
	r = import(rootfs, spec->from, err);
	if (r == 0)
		r = add_mount_points(rootfs, err);
	if (r == 0)
		r = add_agent(rootfs, spec->agent, err);
	if (r < 0)
		return r;
	*ret = cs_steal(rootfs);
	return 0;
}

struct cs_tree *cs_rootfs_tree(const struct cs_rootfs *rootfs)
{
	return rootfs->tree;
}

struct cs_image *cs_rootfs_image(const struct cs_rootfs *rootfs)
{
	return rootfs->image;
}

uint64_t cs_rootfs_input_bytes(const struct cs_rootfs *rootfs)
{
	return rootfs->import.input_bytes;
}

uint64_t cs_rootfs_files(const struct cs_rootfs *rootfs)
{
	return rootfs->import.files;
}

int cs_rootfs_finish(struct cs_rootfs *rootfs, struct cs_err *err)
{
	return cs_erofs_finish(rootfs->image, rootfs->fd, rootfs->tree, CS_ROOT_GRAIN, err);
}

struct cs_rootfs *cs_rootfs_free(struct cs_rootfs *rootfs)
{
	if (!rootfs)
		return NULL;
	rootfs->image = cs_image_free(rootfs->image);
	rootfs->tree = cs_tree_free(rootfs->tree);
	free(rootfs);
	return NULL;
}

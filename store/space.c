/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/space.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define EXTENTS 512 /* asked for at a time */

/* Of Btrfs, not in linux/btrfs.h: btrfs_tree.h has them, and clashes with it. */
#define BLOCK_GROUP_DATA     (UINT64_C(1) << 0)
#define BLOCK_GROUP_SYSTEM   (UINT64_C(1) << 1)
#define BLOCK_GROUP_METADATA (UINT64_C(1) << 2)
#define GLOBAL_RESERVE       (UINT64_C(1) << 49) /* is counted within metadata */

/* Where an owner's blocks begin or end. */
struct edge {
	uint64_t at;
	uint32_t owner;
	bool begins;
};

/* An owner or a group while it is counted. */
struct party {
	struct cs_space_count count;
	size_t group;    /* of an owner */
	uint64_t active; /* extents that are open here */
	uint64_t since;  /* where the first of them began */
};

struct parties {
	struct party *v;
	size_t n, distinct;
	size_t mixed; /* of the active ones the numbers, XORed: with one, its number */
};

struct cs_space {
	struct edge *edges;
	size_t n, room;
	struct parties owners, groups;
	uint64_t held;
};

int cs_space_open(struct cs_space **ret, struct cs_err *err)
{
	struct cs_space *space = calloc(1, sizeof(*space));

	if (!space)
		return cs_fail_errno(err, ENOMEM, "space");
	*ret = space;
	return 0;
}

static int add_party(struct parties *parties, size_t group, size_t *ret, struct cs_err *err)
{
	struct party *larger = parties->v;

	/* room doubles */
	if ((parties->n & (parties->n - 1)) == 0)
		larger = reallocarray(parties->v, parties->n ? 2 * parties->n : 1, sizeof(*larger));
	if (!larger || parties->n >= UINT32_MAX)
		return cs_fail_errno(err, ENOMEM, "space");
	parties->v = larger;
	larger[parties->n] = (struct party){ .group = group };
	*ret = parties->n++;
	return 0;
}

int cs_space_group(struct cs_space *space, size_t *ret, struct cs_err *err)
{
	return add_party(&space->groups, 0, ret, err);
}

int cs_space_owner(struct cs_space *space, size_t group, size_t *ret, struct cs_err *err)
{
	return add_party(&space->owners, group, ret, err);
}

int cs_space_extent(struct cs_space *space, size_t owner, uint64_t start, uint64_t bytes)
{
	struct edge *larger;

	if (!bytes || bytes > UINT64_MAX - start)
		return bytes ? -EOVERFLOW : 0;
	if (space->n + 2 > space->room) {
		size_t room = space->room ? 2 * space->room : 1024;

		larger = reallocarray(space->edges, room, sizeof(*larger));
		if (!larger)
			return -ENOMEM;
		space->edges = larger;
		space->room = room;
	}
	space->edges[space->n++] = (struct edge){ start, (uint32_t)owner, true };
	space->edges[space->n++] = (struct edge){ start + bytes, (uint32_t)owner, false };
	return 0;
}

/* Take what one call told; *ret_next: where the next one begins, 0: that was all. */
static int take_extents(struct cs_space *space, size_t owner, const struct fiemap *map,
			uint64_t *ret_next)
{
	const uint32_t nowhere = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DATA_INLINE;
	int r = 0;

	*ret_next = 0;
	for (uint32_t i = 0; i < map->fm_mapped_extents && r == 0; i++) {
		const struct fiemap_extent *extent = &map->fm_extents[i];

		if (!(extent->fe_flags & nowhere))
			r = cs_space_extent(space, owner, extent->fe_physical, extent->fe_length);
		*ret_next = extent->fe_flags & FIEMAP_EXTENT_LAST
				    ? 0
				    : extent->fe_logical + extent->fe_length;
	}
	return r;
}

int cs_space_file(struct cs_space *space, size_t owner, int fd, struct cs_err *err)
{
	const size_t bytes = sizeof(struct fiemap) + EXTENTS * sizeof(struct fiemap_extent);
	cs_auto(cs_mem_freep) struct fiemap *map = malloc(bytes);
	uint64_t at = 0;
	struct stat st;
	int r;

	if (!map || fstat(fd, &st) < 0)
		return cs_fail_errno(err, map ? errno : ENOMEM, "space");
	do {
		memset(map, 0, sizeof(*map));
		map->fm_start = at;
		map->fm_length = FIEMAP_MAX_OFFSET - at;
		map->fm_flags = FIEMAP_FLAG_SYNC;
		map->fm_extent_count = EXTENTS;
		if (ioctl(fd, FS_IOC_FIEMAP, map) < 0)
			return cs_fail_errno(err, errno == ENOTTY ? EOPNOTSUPP : errno,
					     "the file system does not say where files are");
		r = take_extents(space, owner, map, &at);
		if (r < 0)
			return cs_fail_errno(err, -r, "space");
	} while (at);
	space->owners.v[owner].count.logical_bytes += (uint64_t)st.st_size;
	space->groups.v[space->owners.v[owner].group].count.logical_bytes += (uint64_t)st.st_size;
	return 0;
}

int cs_space_folder(struct cs_space *space, size_t owner, int dirfd, struct cs_err *err)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	struct stat st;
	int copy, r = 0;

	copy = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir)
		return cs_fail_errno(err, errno, "cannot read a folder");
	while (r == 0 && (entry = readdir(dir))) {
		cs_auto(cs_fd_closep) int fd = -1;

		if (fstatat(copy, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    !S_ISREG(st.st_mode))
			continue;
		fd = openat(copy, entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0) /* gone meanwhile, otherwise */
			r = cs_space_file(space, owner, fd, err);
	}
	return r;
}

/* ---- counting ---- */

static int by_place(const void *a, const void *b)
{
	const struct edge *one = a, *other = b;

	return one->at < other->at ? -1 : one->at > other->at;
}

static void pass_edge(struct parties *parties, size_t number, const struct edge *edge)
{
	struct party *party = &parties->v[number];

	if (edge->begins ? party->active++ == 0 : --party->active == 0) {
		parties->mixed ^= number;
		if (edge->begins) {
			parties->distinct++;
			party->since = edge->at;
		} else {
			parties->distinct--;
			party->count.held_bytes += edge->at - party->since;
		}
	}
}

static void count_alone(struct parties *parties, uint64_t bytes)
{
	if (parties->distinct == 1)
		parties->v[parties->mixed].count.alone_bytes += bytes;
}

void cs_space_sum(struct cs_space *space)
{
	uint64_t before = 0;

	if (space->n)
		qsort(space->edges, space->n, sizeof(*space->edges), by_place);
	for (size_t i = 0; i < space->n;) {
		const uint64_t at = space->edges[i].at;

		if (space->owners.distinct)
			space->held += at - before;
		count_alone(&space->owners, at - before);
		count_alone(&space->groups, at - before);
		before = at;
		/* first what begins, so that no count goes below none */
		for (int ends = 0; ends < 2; ends++) {
			for (size_t j = i; j < space->n && space->edges[j].at == at; j++) {
				const struct edge *edge = &space->edges[j];

				if (edge->begins == ends)
					continue;
				pass_edge(&space->owners, edge->owner, edge);
				pass_edge(&space->groups, space->owners.v[edge->owner].group, edge);
			}
		}
		while (i < space->n && space->edges[i].at == at)
			i++;
	}
}

void cs_space_of_owner(const struct cs_space *space, size_t owner, struct cs_space_count *ret)
{
	*ret = space->owners.v[owner].count;
}

void cs_space_of_group(const struct cs_space *space, size_t group, struct cs_space_count *ret)
{
	*ret = space->groups.v[group].count;
}

uint64_t cs_space_held(const struct cs_space *space)
{
	return space->held;
}

/* ---- what the file system says ---- */

static int ask_btrfs(int dirfd, struct cs_space_used *ret)
{
	struct btrfs_ioctl_space_args many = { 0 }, *all;
	cs_auto(cs_mem_freep) struct btrfs_ioctl_space_args *room = NULL;

	if (ioctl(dirfd, BTRFS_IOC_SPACE_INFO, &many) < 0)
		return -errno;
	room = calloc(1, sizeof(*room) + many.total_spaces * sizeof(room->spaces[0]));
	if (!room)
		return -ENOMEM;
	all = room;
	all->space_slots = many.total_spaces;
	if (ioctl(dirfd, BTRFS_IOC_SPACE_INFO, all) < 0)
		return -errno;
	for (uint64_t i = 0; i < all->total_spaces && i < all->space_slots; i++) {
		const struct btrfs_ioctl_space_info *kind = &all->spaces[i];

		if (kind->flags & GLOBAL_RESERVE)
			continue;
		if (kind->flags & BLOCK_GROUP_DATA) {
			ret->data_bytes += kind->used_bytes;
			ret->mixed = ret->mixed || kind->flags & BLOCK_GROUP_METADATA;
		} else {
			ret->metadata_bytes += kind->used_bytes;
		}
	}
	return 0;
}

int cs_space_used(int dirfd, struct cs_space_used *ret, struct cs_err *err)
{
	struct cs_space_used used = { 0 };
	struct statvfs fs;
	int r;

	if (fstatvfs(dirfd, &fs) < 0)
		return cs_fail_errno(err, errno, "cannot ask the file system");
	used.free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	r = ask_btrfs(dirfd, &used);
	if (r < 0 && r != -ENOTTY && r != -EOPNOTSUPP)
		return cs_fail_errno(err, -r, "cannot ask Btrfs for its space");
	if (r < 0)
		used.data_bytes = (uint64_t)(fs.f_blocks - fs.f_bfree) * fs.f_frsize;
	*ret = used;
	return 0;
}

struct cs_space *cs_space_free(struct cs_space *space)
{
	if (!space)
		return NULL;
	free(space->edges);
	free(space->owners.v);
	free(space->groups.v);
	free(space);
	return NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Roots on a DAX device: an extent each, found by a table at the device's beginning (daxtable.h).
 * The device allows shared mappings only, so what guests write to cannot be here. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/daxdev.h"
#include "store/daxtable.h"
#include "store/media-private.h"

#define STEP_BYTES (UINT64_C(1) << 20)

/* An open device with its table. */
struct device {
	int fd;
	uint64_t bytes;
	unsigned char *head; /* CS_DAX_HEAD of it, mapped */
	struct cs_dax_table table;
	unsigned slot;
};

static void device_close(struct device *device)
{
	if (device->head)
		munmap(device->head, CS_DAX_HEAD);
	cs_fd_closep(&device->fd);
}

/* A manifest says what, so it may be anything: whoever opens a FIFO waits until somebody opens its
 * other end. (A regular file does no harm; it is refused after that.) */
static int open_node(const char *path, bool write)
{
	struct stat st;
	int fd;

	if (stat(path, &st) < 0)
		return -errno;
	if (!S_ISCHR(st.st_mode) && !S_ISREG(st.st_mode))
		return -ENOTTY;
	fd = open(path, (write ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int open_device(const char *path, bool write, struct device *ret, struct cs_err *err)
{
	uint64_t align;
	int r;

	r = ret->fd = open_node(path, write);
	if (r == -ENOENT || r == -ENOTDIR || r == -ENXIO || r == -ENODEV)
		return cs_fail(err, ENODEV,
			       "lies on '%s', which is not there (see: clearstore pmem list)",
			       path);
	if (r < 0 && r != -ENOTTY)
		return cs_fail_errno(err, -r, "lies on '%s'", path);
	if (r >= 0)
		r = cs_daxdev_info(ret->fd, &ret->bytes, &align);
	if (r < 0)
		return cs_fail(err, ENOTTY, "'%s' is no DAX device", path);
	if (align > CS_DAX_GRAIN)
		return cs_fail(
			err, EINVAL,
			"'%s': of an alignment of %llu MiB (make its namespace with --align 2M)",
			path, (unsigned long long)(align >> 20));
	ret->bytes = cs_align_down(ret->bytes, CS_DAX_GRAIN);
	if (ret->bytes <= CS_DAX_HEAD)
		return cs_fail(err, ENOSPC, "'%s' is too small (make room: a larger namespace)",
			       path);
	ret->head = cs_daxdev_map(ret->fd, 0, CS_DAX_HEAD, write);
	return ret->head ? 0 : cs_fail_errno(err, errno, "'%s': cannot be mapped", path);
}

static int read_table(struct device *device, const char *path, struct cs_err *err)
{
	int r;

	r = cs_dax_table_parse(device->head, device->bytes, &device->table, &device->slot, err);
	return r < 0 ? cs_fail_in(err, r, "'%s'", path) : 0;
}

/* Into the slot that is not in use; valid when it is all there. */
static void write_table(struct device *device)
{
	unsigned char slot[CS_DAX_SLOT_BYTES];

	device->slot ^= 1;
	device->table.sequence++;
	cs_dax_table_format(&device->table, device->bytes, slot);
	cs_daxdev_copy(device->head + device->slot * CS_DAX_SLOT_BYTES, slot, sizeof(slot));
}

static int open_devdax(const struct cs_manifest_part *part, struct cs_view *ret, struct cs_err *err)
{
	cs_auto(device_close) struct device device = { .fd = -1 };
	const struct cs_dax_extent *extent;
	int r;

	r = open_device(part->where, false, &device, err);
	if (r == 0)
		r = read_table(&device, part->where, err);
	if (r < 0)
		return r;
	extent = cs_dax_table_find(&device.table, part->offset);
	if (!extent || extent->bytes != part->bytes)
		return cs_fail(err, EBADMSG, "is no longer on '%s', says the table there",
			       part->where);
	*ret = (struct cs_view){
		.fd = cs_steal_fd(&device.fd),
		.offset = part->offset,
		.bytes = part->bytes,
		.media = CS_MEDIA_DEVDAX,
	};
	return 0;
}

static int copy_in(const struct cs_media_piece *piece, unsigned char *to)
{
	cs_auto(cs_mem_freep) unsigned char *buf = malloc(STEP_BYTES);
	uint64_t part;
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t at = 0; at < piece->bytes && r == 0; at += part) {
		part = piece->bytes - at < STEP_BYTES ? piece->bytes - at : STEP_BYTES;
		r = cs_pread_full(piece->from_fd, buf, part, at);
		if (r < 0)
			break;
		cs_daxdev_copy(to + at, buf, part);
		if (memcmp(to + at, buf, part) != 0)
			r = -EIO;
	}
	return r;
}

/* A device without a table becomes ours only when it is empty there: it may be somebody's. */
static int take_device(struct device *device, const char *path, struct cs_err *err)
{
	struct cs_err why = { 0 };
	int r;

	r = read_table(device, path, &why);
	if (r == 0)
		return 0;
	if (r != -ENODATA) {
		if (err)
			*err = why;
		return r;
	}
	for (uint64_t i = 0; i < 2 * CS_DAX_SLOT_BYTES; i++) {
		if (device->head[i])
			return cs_fail(
				err, EEXIST,
				"'%s' holds something else (if it may go: make its namespace an "
				"fsdax one, zero the first 16 MiB of that, make it devdax "
				"again)",
				path);
	}
	device->table = (struct cs_dax_table){ 0 };
	device->slot = 1;
	return 0;
}

/* First the contents, then the table that has them. */
static int place_devdax(const char *id, const char *place, const struct cs_media_piece *piece,
			struct cs_manifest_part *part, int *ret_fd, struct cs_err *err)
{
	cs_auto(device_close) struct device device = { .fd = -1 };
	const uint64_t taken = cs_align_up(piece->bytes, CS_DAX_GRAIN);
	struct cs_dax_extent *extent;
	unsigned char *to;
	int r;

	r = open_device(place, true, &device, err);
	if (r < 0)
		return r;
	if (flock(device.fd, LOCK_EX) < 0)
		return cs_fail_errno(err, errno, "'%s'", place);
	r = take_device(&device, place, err);
	if (r < 0)
		return r;
	if (cs_dax_table_add(&device.table, device.bytes, piece->bytes, &extent) < 0)
		return cs_fail(err, ENOSPC,
			       "'%s' has no room for it (remove a template, or make "
			       "room on the device)",
			       place);
	snprintf(extent->owner, sizeof(extent->owner), "%s", id);
	snprintf(extent->name, sizeof(extent->name), "%s", piece->name);
	to = cs_daxdev_map(device.fd, extent->offset, taken, true);
	if (!to)
		return cs_fail_errno(err, errno, "'%s': cannot be mapped", place);
	r = copy_in(piece, to);
	munmap(to, taken);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot write to '%s'", place);
	part->media = CS_MEDIA_DEVDAX;
	part->stored_bytes = taken;
	part->offset = extent->offset;
	snprintf(part->where, sizeof(part->where), "%s", place);
	write_table(&device);
	*ret_fd = cs_steal_fd(&device.fd);
	return 0;
}

/* While somebody puts a part there, whose version is not there yet, it is not swept. */
static int sweep_devdax(const char *id, const char *place, const struct cs_media_kept *kept,
			struct cs_err *err)
{
	cs_auto(device_close) struct device device = { .fd = -1 };
	bool dropped = false;
	int r;

	r = open_device(place, true, &device, err);
	if (r < 0)
		return r;
	if (flock(device.fd, LOCK_EX | LOCK_NB) < 0)
		return 0;
	r = read_table(&device, place, err);
	if (r < 0)
		return r == -ENODATA ? 0 : r;
	for (size_t i = device.table.n; i-- > 0;) {
		const struct cs_dax_extent *extent = &device.table.extent[i];

		if (strcmp(extent->owner, id) != 0 || kept->find(NULL, extent->offset, kept->arg))
			continue;
		cs_dax_table_drop(&device.table, i);
		dropped = true;
	}
	if (dropped)
		write_table(&device);
	return 0;
}

static void place_of_devdax(const struct cs_manifest_part *part, char ret[CS_MEDIA_WHERE])
{
	memcpy(ret, part->where, CS_MEDIA_WHERE);
}

const struct cs_media_ops cs_media_devdax = {
	.prefix = "devdax:",
	.kind = CS_MEDIA_DEVDAX,
	.open = open_devdax,
	.place = place_devdax,
	.sweep = sweep_devdax,
	.place_of = place_of_devdax,
};

int cs_media_copy_out(const struct cs_view *view, int dirfd, const char *name, struct cs_err *err)
{
	const uint64_t bytes = cs_align_up(view->bytes, CS_DAX_GRAIN);
	cs_auto(cs_fd_closep) int fd =
		openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	void *from;
	int r;

	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot make part '%s'", name);
	from = cs_daxdev_map(view->fd, view->offset, bytes, false);
	if (!from)
		return cs_fail_errno(err, errno, "part '%s': cannot be mapped", name);
	r = cs_pwrite_full(fd, from, view->bytes, 0);
	munmap(from, bytes);
	return r < 0 ? cs_fail_errno(err, -r, "part '%s'", name) : 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/template.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/num.h"
#include "store/base/progress.h"
#include "store/initrd.h"
#include "store/manifest.h"
#include "store/rootfs.h"
#include "store/subvol.h"

#define VERSION    "1"
#define DISK_BYTES (8 * CS_GIB)
#define DISK_MIN   (16 * CS_MIB)
#define DISK_MAX   (16 * CS_TIB)

/* What is kept back of the store's room: a Btrfs that is full to the brim can hardly delete. */
#define SPARE_BYTES (16 * CS_MIB)

/* A template being made: the folder .NAME.new, locked, and the subvolume 1 in it. */
struct build {
	struct cs_store *store;
	const struct cs_template_spec *spec;
	char fresh[CS_NAME_MAX + 8];
	int folder, dirfd; /* .NAME.new, .NAME.new/1 */
	uint64_t space;    /* bytes that the store can take */
	struct cs_manifest *manifest;
};

/* After a success the folder has its new name and is not ours any more; otherwise it goes now. */
static void build_release(struct build *build)
{
	cs_fd_closep(&build->dirfd);
	if (build->folder >= 0)
		cs_subvol_remove(cs_store_templates_fd(build->store), build->fresh, NULL);
	cs_fd_closep(&build->folder);
	build->manifest = cs_manifest_free(build->manifest);
}

/* ---- the folder ---- */

/* Is the folder (fd) still the one called (name)? A sweeper may have been faster than our lock. */
static bool is_named(int fd, int dirfd, const char *name)
{
	struct stat held, named;

	return fstat(fd, &held) == 0 && fstatat(dirfd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

/* Make .NAME.new and lock it. One that is there and can be locked is a dead maker's: away with it.
 */
static int open_folder(struct build *build, struct cs_err *err)
{
	int templates_fd = cs_store_templates_fd(build->store), r;

	for (int tries = 0; tries < 100; tries++) {
		cs_auto(cs_fd_closep) int fd = -1;
		bool made = mkdirat(templates_fd, build->fresh, 0700) == 0;

		if (!made && errno != EEXIST)
			return cs_fail_errno(err, errno, "cannot write to the store");
		fd = openat(templates_fd, build->fresh,
			    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0)
			return cs_fail_errno(err, errno, "cannot write to the store");
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			if (tries < 20) { /* a sweeper is done in a moment, a maker is not */
				nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
				continue;
			}
			return cs_fail(err, EBUSY, "another process adds it right now");
		}
		if (!is_named(fd, templates_fd, build->fresh))
			continue;
		if (made) {
			build->folder = cs_steal_fd(&fd);
			return 0;
		}
		r = cs_subvol_remove(templates_fd, build->fresh, err);
		if (r < 0)
			return r;
	}
	return cs_fail(err, EBUSY, "another process adds it right now");
}

static int open_build(struct build *build, struct cs_err *err)
{
	const char *name = build->spec->name;
	int r;

	snprintf(build->fresh, sizeof(build->fresh), ".%s.new", name);
	if (!cs_missing_at(cs_store_templates_fd(build->store), name))
		return cs_fail(err, EEXIST,
			       "there is one of that name (clearstore template remove %s, or take "
			       "another name)",
			       name);
	r = cs_store_space(build->store, &build->space, err);
	if (r < 0)
		return r;
	build->space -= build->space < SPARE_BYTES ? build->space : SPARE_BYTES;
	build->manifest = calloc(1, sizeof(*build->manifest));
	if (!build->manifest)
		return cs_fail_errno(err, ENOMEM, "manifest");
	r = open_folder(build, err);
	if (r == 0)
		r = cs_subvol_create(build->folder, VERSION, err);
	if (r < 0)
		return r;
	build->dirfd =
		openat(build->folder, VERSION, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return build->dirfd < 0 ? cs_fail_errno(err, errno, "cannot write to the store") : 0;
}

/* ---- the parts ---- */

static int create_part(int dirfd, const char *name, struct cs_err *err)
{
	int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	return fd < 0 ? cs_fail_errno(err, errno, "cannot make part '%s'", name) : fd;
}

/* Take the finished file (name) in as (part): hash it, while its pages are still in memory, and
 * make it read-only. */
static int seal_part(struct build *build, enum cs_part part, struct cs_err *err)
{
	struct cs_manifest_part *made = &build->manifest->part[part];
	const char *name = cs_part_name(part);
	cs_auto(cs_fd_closep) int fd =
		openat(build->dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct cs_view view;
	struct stat st;
	int r;

	if (fd < 0 || fchmod(fd, 0444) < 0 || fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "part '%s'", name);
	/* let the disk work while the processor does */
	sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	view = (struct cs_view){ .fd = fd, .bytes = (uint64_t)st.st_size };
	r = cs_manifest_digest(part, &view, NULL, made->sha256, err);
	if (r < 0)
		return cs_fail_in(err, r, "part '%s'", name);
	if (fdatasync(fd) < 0 || fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "cannot write part '%s'", name);
	made->bytes = (uint64_t)st.st_size;
	made->stored_bytes = (uint64_t)st.st_blocks * 512;
	made->media = CS_MEDIA_FILE;
	made->present = true;
	return 0;
}

static int make_initrd(struct build *build, const struct cs_rootfs *rootfs, struct cs_err *err)
{
	const struct cs_template_spec *spec = build->spec;
	const struct cs_initrd_spec initrd = {
		.release = build->manifest->kernel_release,
		.kernel = spec->kernel,
		.modules = spec->modules,
		.agent = spec->agent,
		.tree = cs_rootfs_tree(rootfs),
		.image = cs_rootfs_image(rootfs),
	};
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	if (spec->modules && !strcmp(spec->modules, "none"))
		return 0;
	fd = create_part(build->dirfd, cs_part_name(CS_PART_INITRD), err);
	if (fd < 0)
		return fd;
	r = cs_initrd_make(&initrd, fd, err);
	return r < 0 ? r : seal_part(build, CS_PART_INITRD, err);
}

static int make_kernel(struct build *build, struct cs_err *err)
{
	struct cs_kernel_info info;
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	fd = create_part(build->dirfd, cs_part_name(CS_PART_KERNEL), err);
	if (fd < 0)
		return fd;
	r = cs_kernel_unpack(build->spec->kernel, fd, &info, err);
	if (r < 0)
		return r;
	build->manifest->stock_kernel = info.stock;
	memcpy(build->manifest->kernel_release, info.release, sizeof(info.release));
	return seal_part(build, CS_PART_KERNEL, err);
}

/* An ext4 is made from the EROFS, which stands beside the subvolume and goes with the folder. */
static int make_root(struct build *build, struct cs_err *err)
{
	const struct cs_template_spec *spec = build->spec;
	bool ext4 = spec->root_format == CS_ROOT_EXT4;
	cs_auto(cs_rootfs_freep) struct cs_rootfs *rootfs = NULL;
	cs_auto(cs_fd_closep) int fd = -1;
	const struct cs_rootfs_spec from = {
		.from = spec->from,
		.agent = spec->agent,
		.max_bytes = ext4 ? build->space / 2 : build->space,
		.progress = spec->progress,
	};
	int r;

	fd = ext4 ? create_part(build->folder, "erofs", err)
		  : create_part(build->dirfd, cs_part_name(CS_PART_ROOT), err);
	if (fd < 0)
		return fd;
	r = cs_rootfs_open(fd, &from, &rootfs, err);
	if (r == 0 && build->manifest->stock_kernel)
		r = make_initrd(build, rootfs, err);
	if (r == 0)
		r = cs_rootfs_finish(rootfs, err);
	if (r == 0 && ext4)
		r = cs_rootfs_to_ext4(fd, build->dirfd, cs_part_name(CS_PART_ROOT),
				      build->space / 2, err);
	if (r == 0 && ext4 && unlinkat(build->folder, "erofs", 0) < 0)
		r = cs_fail_errno(err, errno, "cannot write to the store");
	if (r < 0)
		return r;
	build->manifest->root_format = spec->root_format;
	build->manifest->input_bytes = cs_rootfs_input_bytes(rootfs);
	build->manifest->files = cs_rootfs_files(rootfs);
	cs_progress_step(spec->progress, "hashing");
	return seal_part(build, CS_PART_ROOT, err);
}

static int make_disk(struct build *build, struct cs_err *err)
{
	uint64_t bytes = build->spec->disk_bytes ? build->spec->disk_bytes : DISK_BYTES;
	int r;

	if (bytes < DISK_MIN || bytes > DISK_MAX || bytes % CS_PAGE_BYTES)
		return cs_fail(err, EINVAL,
			       "disk of %llu bytes: 16M to 16T, in units of 4K, is possible",
			       (unsigned long long)bytes);
	r = cs_rootfs_empty_disk(build->dirfd, cs_part_name(CS_PART_DISK), bytes, err);
	return r < 0 ? r : seal_part(build, CS_PART_DISK, err);
}

static int hash_agent(struct build *build, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = open(build->spec->agent, O_RDONLY | O_CLOEXEC);
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "agent '%s'", build->spec->agent);
	r = cs_digest_file(fd, (uint64_t)st.st_size, NULL, build->manifest->agent_sha256, err);
	return r < 0 ? cs_fail_in(err, r, "agent '%s'", build->spec->agent) : 0;
}

static int make_parts(struct build *build, struct cs_err *err)
{
	struct cs_manifest *manifest = build->manifest;
	int r;

	manifest->created = time(NULL);
	manifest->cmdline = strdup(build->spec->cmdline ? build->spec->cmdline : "");
	if (!manifest->cmdline)
		return cs_fail_errno(err, ENOMEM, "manifest");
	/* what fails fast comes first */
	r = hash_agent(build, err);
	if (r == 0)
		r = make_kernel(build, err);
	if (r == 0)
		r = make_disk(build, err);
	if (r == 0)
		r = make_root(build, err);
	return r < 0 ? r : cs_manifest_save(build->dirfd, manifest, err);
}

/* ---- publishing ---- */

/* Sealed first, since a sealed subvolume cannot be moved to another folder, but the folder around
 * it can be renamed. After the rename the template is there, and whole. */
static int publish(struct build *build, struct cs_err *err)
{
	int templates_fd = cs_store_templates_fd(build->store), r;
	cs_auto(cs_fd_closep) int lock = -1;

	if (fchmod(build->folder, 0755) < 0)
		return cs_fail_errno(err, errno, "cannot write to the store");
	if (symlinkat(VERSION, build->folder, "active") < 0)
		return cs_fail_errno(err, errno, "cannot write to the store");
	r = cs_subvol_seal(build->folder, VERSION, err);
	if (r < 0)
		return r;
	if (fsync(build->dirfd) < 0 || fsync(build->folder) < 0)
		return cs_fail_errno(err, errno, "cannot write to the store");
	r = cs_store_lock(build->store, true, &lock, err);
	if (r < 0)
		return r;
	if (renameat2(templates_fd, build->fresh, templates_fd, build->spec->name,
		      RENAME_NOREPLACE) < 0) {
		if (errno == EEXIST)
			return cs_fail(err, EEXIST, "another process added it meanwhile");
		return cs_fail_errno(err, errno, "cannot publish it");
	}
	cs_fd_closep(&build->folder);
	r = cs_sync_dir(templates_fd);
	return r < 0 ? cs_fail_errno(err, -r, "cannot write to the store") : 0;
}

static void count(const struct build *build, const struct timespec *start,
		  struct cs_template_added *ret)
{
	struct timespec now;

	*ret = (struct cs_template_added){
		.input_bytes = build->manifest->input_bytes,
		.files = build->manifest->files,
	};
	for (int part = 0; part < CS_PART_MAX; part++)
		ret->stored_bytes += build->manifest->part[part].stored_bytes;
	clock_gettime(CLOCK_MONOTONIC, &now);
	ret->seconds =
		(double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

int cs_template_add(struct cs_store *store, const struct cs_template_spec *spec,
		    struct cs_template_added *ret, struct cs_err *err)
{
	cs_auto(build_release) struct build build = {
		.store = store, .spec = spec, .folder = -1, .dirfd = -1
	};
	struct timespec start;
	int r;

	clock_gettime(CLOCK_MONOTONIC, &start);
	r = cs_name_check("template", spec->name, err);
	if (r < 0)
		return r;
	r = open_build(&build, err);
	if (r == 0)
		r = make_parts(&build, err);
	if (r == 0)
		r = publish(&build, err);
	/* whatever it was that did not fit */
	if ((r == -ENOSPC || r == -EDQUOT) && !(err && strstr(err->text, "make room")))
		r = cs_fail(err, -r,
			    "the store is full (remove a template, or make room on the disk under "
			    "the store)");
	if (r < 0)
		return cs_fail_in(err, r, "template '%s'", spec->name);
	if (ret)
		count(&build, &start, ret);
	return 0;
}

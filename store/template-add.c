/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/template.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/num.h"
#include "store/base/progress.h"
#include "store/draft.h"
#include "store/initrd.h"
#include "store/manifest.h"
#include "store/media.h"
#include "store/quarantine.h"
#include "store/rootfs.h"
#include "store/share.h"

#define SCRATCH    "erofs" /* beside the subvolume, goes with the folder */
#define EXT4       "ext4"
#define DISK_BYTES (8 * CS_GIB)
#define DISK_MIN   (16 * CS_MIB)
#define DISK_MAX   (16 * CS_TIB)

/* What is kept back of the store's room: a Btrfs that is full to the brim can hardly delete. */
#define SPARE_BYTES (16 * CS_MIB)

/* A template, or a version of one, being made. */
struct build {
	const struct cs_template_spec *spec;
	struct cs_template *from;   /* what is updated; NULL: a new template */
	struct cs_share *share;     /* with its root; NULL: it has none */
	struct cs_media_spec media; /* where the root shall lie */
	struct cs_draft *draft;
	struct cs_manifest *manifest; /* the draft's */
	uint64_t space;               /* bytes that the store can take */
};

static void build_release(struct build *build)
{
	build->draft = cs_draft_free(build->draft);
	build->share = cs_share_free(build->share);
	build->from = cs_template_free(build->from);
}

static int open_build(struct build *build, struct cs_store *store, struct cs_err *err)
{
	int r;

	r = cs_store_space(store, &build->space, err);
	if (r < 0)
		return r;
	build->space -= build->space < SPARE_BYTES ? build->space : SPARE_BYTES;
	r = build->from ? cs_draft_create_version(store, build->from, &build->draft, err)
			: cs_draft_create(store, build->spec->name, NULL, &build->draft, err);
	if (r < 0)
		return r;
	build->manifest = cs_draft_manifest(build->draft);
	if (build->from)
		cs_media_of(&build->manifest->part[CS_PART_ROOT], &build->media);
	return 0;
}

/* ---- the parts ---- */

static int make_initrd(struct build *build, const struct cs_rootfs *rootfs, struct cs_err *err)
{
	const struct cs_template_spec *spec = build->spec;
	const struct cs_initrd_spec initrd = {
		.release = build->manifest->kernel_release,
		.kernel = spec->kernel ? spec->kernel : "/",
		.modules = spec->modules,
		.agent = spec->agent,
		.tree = cs_rootfs_tree(rootfs),
		.image = cs_rootfs_image(rootfs),
	};
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	if (spec->modules && !strcmp(spec->modules, "none"))
		return cs_draft_drop_part(build->draft, CS_PART_INITRD, err);
	r = cs_draft_open_part(build->draft, CS_PART_INITRD, false, &fd, err);
	if (r == 0)
		r = cs_initrd_make(&initrd, fd, err);
	return r < 0 ? r : cs_draft_seal_part(build->draft, CS_PART_INITRD, err);
}

static int make_kernel(struct build *build, struct cs_err *err)
{
	struct cs_kernel_info info;
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	r = cs_draft_open_part(build->draft, CS_PART_KERNEL, false, &fd, err);
	if (r == 0)
		r = cs_kernel_unpack(build->spec->kernel, fd, &info, err);
	if (r < 0)
		return r;
	build->manifest->stock_kernel = info.stock;
	memcpy(build->manifest->kernel_release, info.release, sizeof(info.release));
	return cs_draft_seal_part(build->draft, CS_PART_KERNEL, err);
}

static int open_scratch(struct build *build, int *ret, struct cs_err *err)
{
	int fd = openat(cs_draft_folder(build->draft), SCRATCH,
			O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot write to the store");
	*ret = fd;
	return 0;
}

/* As new bytes only what the ext4 before has not. */
static int share_ext4(struct build *build, struct cs_err *err)
{
	const int folder = cs_draft_folder(build->draft);
	cs_auto(cs_fd_closep) int from = openat(folder, EXT4, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	cs_auto(cs_fd_closep) int fd = -1;
	struct stat st;
	int r;

	if (from < 0 || fstat(from, &st) < 0)
		return cs_fail_errno(err, errno, "cannot read the root back");
	r = cs_draft_open_part(build->draft, CS_PART_ROOT, false, &fd, err);
	if (r < 0)
		return r;
	r = cs_share_copy(build->share, from, (uint64_t)st.st_size, fd);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot write the root");
	if (unlinkat(folder, EXT4, 0) < 0)
		return cs_fail_errno(err, errno, "cannot write to the store");
	return 0;
}

static int make_ext4(struct build *build, int erofs_fd, struct cs_err *err)
{
	const int folder = cs_draft_folder(build->draft);
	int r;

	if (build->share)
		r = cs_rootfs_to_ext4(erofs_fd, folder, EXT4, build->space / 2, err);
	else
		r = cs_rootfs_to_ext4(erofs_fd, cs_draft_dirfd(build->draft),
				      cs_part_name(CS_PART_ROOT), build->space / 2, err);
	if (r == 0 && build->share)
		r = share_ext4(build, err);
	if (r == 0 && unlinkat(folder, SCRATCH, 0) < 0)
		r = cs_fail_errno(err, errno, "cannot write to the store");
	return r;
}

/* Where it is asked for; an update where the root before is. */
static int place_root(struct build *build, struct cs_err *err)
{
	const struct cs_manifest_part *root = &build->manifest->part[CS_PART_ROOT];
	struct cs_media_spec media = build->media;
	int r;

	if (build->spec->media) {
		r = cs_media_parse(build->spec->media, root->bytes, &media, err);
		if (r < 0)
			return r;
	}
	return cs_draft_place_part(build->draft, CS_PART_ROOT, &media, err);
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
		.share = ext4 ? NULL : build->share,
		.progress = spec->progress,
	};
	int r;

	r = ext4 ? open_scratch(build, &fd, err)
		 : cs_draft_open_part(build->draft, CS_PART_ROOT, false, &fd, err);
	if (r == 0)
		r = cs_rootfs_open(fd, &from, &rootfs, err);
	if (r == 0 && build->manifest->stock_kernel)
		r = make_initrd(build, rootfs, err);
	if (r == 0)
		r = cs_rootfs_finish(rootfs, err);
	if (r == 0 && ext4)
		r = make_ext4(build, fd, err);
	if (r < 0)
		return r;
	build->manifest->root_format = spec->root_format;
	build->manifest->input_bytes = cs_rootfs_input_bytes(rootfs);
	build->manifest->files = cs_rootfs_files(rootfs);
	cs_progress_step(spec->progress, "hashing");
	r = cs_draft_seal_part(build->draft, CS_PART_ROOT, err);
	return r < 0 ? r : place_root(build, err);
}

static int make_disk(struct build *build, struct cs_err *err)
{
	uint64_t bytes = build->spec->disk_bytes ? build->spec->disk_bytes : DISK_BYTES;
	int r;

	if (bytes < DISK_MIN || bytes > DISK_MAX || bytes % CS_PAGE_BYTES)
		return cs_fail(err, EINVAL,
			       "disk of %llu bytes: 16M to 16T, in units of 4K, is possible",
			       (unsigned long long)bytes);
	r = cs_rootfs_empty_disk(cs_draft_dirfd(build->draft), cs_part_name(CS_PART_DISK), bytes,
				 err);
	return r < 0 ? r : cs_draft_seal_part(build->draft, CS_PART_DISK, err);
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
	return r;
}

/* ---- the parts of a version that is updated ---- */

/* All blocks of the root before are learned, and what of them comes again need not fit. */
static int open_share(struct build *build, struct cs_err *err)
{
	struct cs_view view;
	int r;

	/* nothing in the store shares with what is elsewhere */
	if (!build->spec->from || cs_template_view(build->from, CS_PART_ROOT, &view, NULL) < 0 ||
	    view.media != CS_MEDIA_FILE)
		return 0;
	r = cs_share_open(view.fd, view.bytes, &build->share);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot read the root of version '%s'",
				     cs_template_version(build->from));
	build->space += build->manifest->part[CS_PART_ROOT].stored_bytes;
	return 0;
}

/* The kernel of the version before in the place of the one that was made. */
static int clone_kernel(struct build *build, const struct cs_view *view)
{
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	r = cs_draft_open_part(build->draft, CS_PART_KERNEL, false, &fd, NULL);
	if (r == 0)
		r = cs_draft_clone(view->fd, view->bytes, fd, NULL);
	if (r < 0)
		return r;
	cs_draft_part_shares(build->draft, CS_PART_KERNEL, r ? UINT64_MAX : 0);
	return cs_draft_seal_part(build->draft, CS_PART_KERNEL, NULL);
}

/* A kernel that is the same all over shares its blocks with the one before. That the manifest says
 * so is not enough: what lies there may be damaged, and an update is the way out of that. */
static int share_kernel(struct build *build, struct cs_err *err)
{
	const struct cs_manifest_part *made = &build->manifest->part[CS_PART_KERNEL];
	const char *before = cs_template_digest(build->from, CS_PART_KERNEL);
	char wanted[CS_DIGEST_TEXT];
	struct cs_view view;

	memcpy(wanted, made->sha256, sizeof(wanted));
	if (!before || strcmp(before, wanted) != 0 ||
	    cs_template_view(build->from, CS_PART_KERNEL, &view, NULL) < 0)
		return 0;
	if (clone_kernel(build, &view) == 0 && strcmp(made->sha256, wanted) == 0)
		return 0;
	cs_draft_part_shares(build->draft, CS_PART_KERNEL, 0);
	return make_kernel(build, err);
}

static int update_kernel(struct build *build, struct cs_err *err)
{
	int r;

	r = make_kernel(build, err);
	if (r == 0)
		r = share_kernel(build, err);
	if (r < 0 || !build->manifest->stock_kernel)
		return r < 0 ? r : cs_draft_drop_part(build->draft, CS_PART_INITRD, err);
	if (!build->spec->from)
		return cs_fail(
			err, EINVAL,
			"kernel %s is a distribution's: its modules come with the root (give "
			"--from, too)",
			build->manifest->kernel_release);
	return 0;
}

static int update_root(struct build *build, struct cs_err *err)
{
	struct cs_share_count count;
	int r;

	r = hash_agent(build, err);
	if (r == 0)
		r = open_share(build, err);
	if (r == 0)
		r = make_root(build, err);
	/* on a medium of its own it shares nothing, whatever it had in common on the way there */
	if (r < 0 || !build->share || build->manifest->part[CS_PART_ROOT].media != CS_MEDIA_FILE)
		return r;
	cs_share_count(build->share, &count);
	cs_draft_part_shares(build->draft, CS_PART_ROOT, count.shared_bytes);
	return 0;
}

/* A saved machine knows the root it was booted from, block by block. */
static int drop_saved(struct build *build, struct cs_err *err)
{
	int r;

	if (!build->manifest->saved.present)
		return 0;
	build->manifest->saved = (struct cs_manifest_saved){ 0 };
	r = cs_draft_drop_part(build->draft, CS_PART_MEMORY, err);
	return r < 0 ? r : cs_draft_drop_part(build->draft, CS_PART_STATE, err);
}

static int update_parts(struct build *build, struct cs_err *err)
{
	const struct cs_template_spec *spec = build->spec;
	struct cs_manifest *manifest = build->manifest;
	int r;

	manifest->created = time(NULL);
	if (spec->cmdline) {
		char *cmdline = strdup(spec->cmdline);

		if (!cmdline)
			return cs_fail_errno(err, ENOMEM, "manifest");
		free(manifest->cmdline);
		manifest->cmdline = cmdline;
	}
	r = drop_saved(build, err);
	if (r == 0 && spec->kernel)
		r = update_kernel(build, err);
	if (r == 0 && spec->disk_bytes)
		r = make_disk(build, err);
	if (r == 0 && spec->from)
		r = update_root(build, err);
	return r;
}

/* Of a version in quarantine: what stays of it must not be what is damaged, or that comes out again
 * under another number. */
static int check_kept(struct build *build, struct cs_store *store, struct cs_err *err)
{
	char words[CS_QUARANTINE_TEXT];
	int r;

	if (!cs_quarantine_get(store, cs_template_name(build->from),
			       cs_template_version(build->from), words))
		return 0;
	for (enum cs_part part = 0; part < CS_PART_MAX; part++) {
		if (!cs_draft_keeps(build->draft, part))
			continue;
		r = cs_template_scrub_part(build->from, part, err);
		if (r == -EBADMSG || r == -EIO || r == -ENODATA)
			return cs_fail(
				err, EBADMSG,
				"part '%s' is damaged and would stay (give it anew, or roll back)",
				cs_part_name(part));
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- both ---- */

static void count(const struct build *build, const struct timespec *start,
		  struct cs_template_added *ret)
{
	struct timespec now;

	*ret = (struct cs_template_added){
		.input_bytes = build->manifest->input_bytes,
		.files = build->manifest->files,
		.shared_bytes = build->manifest->shared_bytes,
		.dropped_saved = build->from && cs_template_manifest(build->from)->saved.present,
	};
	snprintf(ret->version, sizeof(ret->version), "%s", cs_draft_version(build->draft));
	snprintf(ret->parent, sizeof(ret->parent), "%s", build->manifest->parent);
	for (int part = 0; part < CS_PART_MAX; part++)
		ret->stored_bytes += build->manifest->part[part].stored_bytes;
	clock_gettime(CLOCK_MONOTONIC, &now);
	ret->seconds =
		(double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

/* Whatever it was that did not fit. */
static int fail_full(int r, const char *name, struct cs_err *err)
{
	if ((r == -ENOSPC || r == -EDQUOT) && !(err && strstr(err->text, "make room")))
		r = cs_fail(err, -r,
			    "the store is full (remove a template, or make room on the disk under "
			    "the store)");
	return cs_fail_in(err, r, "template '%s'", name);
}

int cs_template_add(struct cs_store *store, const struct cs_template_spec *spec,
		    struct cs_template_added *ret, struct cs_err *err)
{
	cs_auto(build_release) struct build build = { .spec = spec };
	struct timespec start;
	int r;

	clock_gettime(CLOCK_MONOTONIC, &start);
	r = cs_name_check("template", spec->name, err);
	if (r < 0)
		return r;
	r = open_build(&build, store, err);
	if (r == 0)
		r = make_parts(&build, err);
	if (r == 0)
		r = cs_draft_publish(build.draft, NULL, err);
	if (r < 0)
		return fail_full(r, spec->name, err);
	if (ret)
		count(&build, &start, ret);
	return 0;
}

int cs_template_update(struct cs_store *store, const struct cs_template_spec *spec, bool activate,
		       struct cs_template_added *ret, struct cs_err *err)
{
	cs_auto(build_release) struct build build = { .spec = spec };
	struct timespec start;
	int r;

	clock_gettime(CLOCK_MONOTONIC, &start);
	/* also one in quarantine: this is a way out */
	r = cs_template_open_any(store, spec->name, &build.from, err);
	if (r < 0)
		return r;
	r = open_build(&build, store, err);
	if (r == 0) {
		cs_draft_activate(build.draft, activate);
		r = update_parts(&build, err);
	}
	if (r == 0)
		r = check_kept(&build, store, err);
	if (r == 0)
		r = cs_draft_publish(build.draft, NULL, err);
	if (r < 0)
		return fail_full(r, spec->name, err);
	if (ret)
		count(&build, &start, ret);
	return 0;
}

/* ---- moving ---- */

/* Parts that guests map; the others are read once, or cloned in the store. */
static bool moves(enum cs_part part, enum cs_media kind)
{
	return part == CS_PART_ROOT || (part == CS_PART_MEMORY && kind != CS_MEDIA_DEVDAX);
}

static int move_part(struct cs_draft *draft, enum cs_part part, const struct cs_media_spec *media,
		     struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	char before[CS_DIGEST_TEXT];
	struct cs_manifest_part *made = &cs_draft_manifest(draft)->part[part];
	int r;

	if (made->media != CS_MEDIA_FILE) {
		memcpy(before, made->sha256, sizeof(before));
		r = cs_draft_open_part(draft, part, true, &fd, err);
		if (r == 0)
			r = cs_draft_seal_part(draft, part, err);
		if (r == 0 && strcmp(before, made->sha256) != 0)
			r = cs_fail(err, EBADMSG,
				    "part '%s' is damaged where it lies (roll back, or update it)",
				    cs_part_name(part));
		if (r < 0)
			return r;
	}
	return moves(part, media->kind) ? cs_draft_place_part(draft, part, media, err) : 0;
}

int cs_template_move(struct cs_store *store, const char *name, const char *media_text,
		     const struct cs_template_user *user, struct cs_template_added *ret,
		     struct cs_err *err)
{
	const struct cs_template_spec spec = { .name = name };
	cs_auto(build_release) struct build build = { .spec = &spec };
	struct timespec start;
	int r;

	clock_gettime(CLOCK_MONOTONIC, &start);
	r = cs_template_open(store, name, &build.from, err);
	if (r < 0)
		return r;
	r = open_build(&build, store, err);
	if (r == 0)
		r = cs_media_parse(media_text, build.manifest->part[CS_PART_ROOT].bytes,
				   &build.media, err);
	for (enum cs_part part = 0; part < CS_PART_MAX && r == 0; part++) {
		if (build.manifest->part[part].present)
			r = move_part(build.draft, part, &build.media, err);
	}
	if (r == 0)
		r = cs_draft_publish(build.draft, user, err);
	if (r < 0)
		return fail_full(r, name, err);
	count(&build, &start, ret);
	return 0;
}

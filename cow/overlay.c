/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cow/life.h"
#include "cow/park.h"
#include "cow/ram.h"
#include "store/hot.h"

#define SECTOR_BYTES 512

struct cs_overlay {
	int dirfd;
	struct cs_view root, memory; /* bytes 0: none */
	struct cs_ram ram;
	struct cs_disk disk; /* fd -1: none */
	struct cs_boot boot; /* its descriptors are the template's, or (parked)'s */
	struct cs_parked parked;
	struct cs_hot hot; /* empty: not known, or it does not go on from there */
	bool mapped;
};

/* (part) as a view, bytes 0 when the template has none. */
static int view_of(const struct cs_template *t, enum cs_part part, struct cs_view *ret,
		   struct cs_err *err)
{
	int r;

	r = cs_template_view(t, part, ret, err);
	if (r != -ENOENT)
		return r;
	*ret = (struct cs_view){ .fd = -1 };
	return 0;
}

/* Its memory in place of empty RAM. */
static int open_memory(struct cs_overlay *overlay, const struct cs_template *t, struct cs_err *err)
{
	int r = cs_template_view(t, CS_PART_MEMORY, &overlay->memory, err);

	for (size_t i = 0; i < overlay->ram.n && r == 0; i++) {
		if (overlay->ram.seg[i].backing == CS_BACKING_ANON)
			overlay->ram.seg[i].backing = overlay->memory.media == CS_MEDIA_FSDAX
							      ? CS_BACKING_DAXCOW
							      : CS_BACKING_COW;
	}
	return r;
}

/* Of a saved machine its state, and its memory. */
static int open_saved(const struct cs_store *store, struct cs_overlay *overlay,
		      const struct cs_template *t, struct cs_err *err)
{
	struct cs_view state;
	int r;

	r = cs_template_view(t, CS_PART_STATE, &state, err);
	if (r < 0)
		return r;
	if (state.offset)
		return cs_fail(err, EINVAL, "template '%s': its state is no file of its own",
			       cs_template_name(t));
	overlay->boot.state_fd = state.fd;
	cs_hot_get(store, t, &overlay->hot); /* without, it costs some time only */
	return open_memory(overlay, t, err);
}

/* What the guest goes on from: where it was parked, else what its template saved, else nothing. */
static int open_machine(const struct cs_store *store, struct cs_overlay *overlay,
			const struct cs_template *t, const struct cs_card *card, struct cs_err *err)
{
	int r = cs_parked_open(overlay->dirfd, &overlay->parked, err);

	if (r == -ENOENT)
		return card->resume ? open_saved(store, overlay, t, err) : 0;
	if (r < 0)
		return r;
	overlay->boot.state_fd = overlay->parked.state_fd;
	overlay->boot.delta_fd = overlay->parked.memory_fd;
	return overlay->parked.from_memory ? open_memory(overlay, t, err) : 0;
}

static int open_boot(struct cs_overlay *overlay, const struct cs_template *t, struct cs_err *err)
{
	struct cs_view kernel, initrd;
	int r;

	r = cs_template_view(t, CS_PART_KERNEL, &kernel, err);
	if (r < 0)
		return r;
	r = view_of(t, CS_PART_INITRD, &initrd, err);
	if (r < 0)
		return r;
	/* The machine gets descriptors, and reads them from their beginning. */
	if (kernel.offset || initrd.offset)
		return cs_fail(err, EINVAL, "template '%s': its kernel is no file of its own",
			       cs_template_name(t));
	overlay->boot = (struct cs_boot){
		.kernel_fd = kernel.fd,
		.initrd_fd = initrd.bytes ? initrd.fd : -1,
		.state_fd = -1,
		.delta_fd = -1,
		.cmdline = cs_template_cmdline(t),
		.stock_kernel = cs_template_stock_kernel(t),
	};
	return 0;
}

static int open_disk(struct cs_store *store, struct cs_overlay *overlay, const struct cs_card *card,
		     struct cs_err *err)
{
	struct stat st;
	int r;

	if (!card->persist)
		return 0;
	r = cs_overlay_open_disk(overlay->dirfd, true);
	if (r < 0)
		return cs_fail_errno(err, -r, "disk");
	overlay->disk.fd = r;
	if (fstat(overlay->disk.fd, &st) < 0)
		return cs_fail_errno(err, errno, "disk");
	if (!S_ISREG(st.st_mode) || st.st_size < SECTOR_BYTES || st.st_size % SECTOR_BYTES)
		return cs_fail(err, EBADMSG, "disk: no file of whole sectors");
	overlay->disk.bytes = (uint64_t)st.st_size;
	r = cs_store_open_under(store, &overlay->disk.under_fd, err);
	return r == -ENOENT ? 0 : r;
}

static int open_parts(struct cs_store *store, struct cs_overlay *overlay,
		      const struct cs_template *t, const struct cs_card *card, struct cs_err *err)
{
	int r;

	r = open_boot(overlay, t, err);
	if (r < 0)
		return r;
	r = view_of(t, CS_PART_ROOT, &overlay->root, err);
	if (r < 0)
		return r;
	r = cs_ram_plan(card->ram_bytes, overlay->root.bytes, &overlay->ram, err);
	if (r == 0)
		r = open_machine(store, overlay, t, card, err);
	if (r < 0)
		return r;
	return open_disk(store, overlay, card, err);
}

static struct cs_overlay *new_overlay(void)
{
	struct cs_overlay *overlay = calloc(1, sizeof(*overlay));

	if (!overlay)
		return NULL;
	overlay->dirfd = -1;
	overlay->disk.fd = overlay->disk.under_fd = -1;
	overlay->parked.memory_fd = overlay->parked.state_fd = -1;
	return overlay;
}

int cs_overlay_open(struct cs_store *store, const struct cs_template *t, const struct cs_card *card,
		    struct cs_overlay **ret, struct cs_err *err)
{
	cs_auto(cs_overlay_freep) struct cs_overlay *overlay = NULL;
	int r;

	if (strcmp(card->template, cs_template_name(t)) != 0 ||
	    strcmp(card->version, cs_template_version(t)) != 0)
		return cs_fail(err, EINVAL, "guest '%s': is of template '%s@%s', not of '%s@%s'",
			       card->guest, card->template, card->version, cs_template_name(t),
			       cs_template_version(t));
	overlay = new_overlay();
	if (!overlay)
		return cs_fail_errno(err, ENOMEM, "guest '%s'", card->guest);
	r = cs_guest_open(store, card->guest, &overlay->dirfd, err);
	if (r < 0)
		return r;
	r = open_parts(store, overlay, t, card, err);
	if (r < 0)
		return cs_fail_in(err, r, "guest '%s'", card->guest);
	*ret = cs_steal(overlay);
	return 0;
}

int cs_overlay_open_unnamed(struct cs_store *store, const struct cs_template *t,
			    const struct cs_card *card, int dirfd, struct cs_overlay **ret,
			    struct cs_err *err)
{
	cs_auto(cs_overlay_freep) struct cs_overlay *overlay = new_overlay();
	int r;

	if (!overlay)
		return cs_fail_errno(err, ENOMEM, "template '%s'", card->template);
	/* Not a copy, which would share its lock. */
	overlay->dirfd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (overlay->dirfd < 0)
		return cs_fail_errno(err, errno, "cannot open its folder");
	r = open_parts(store, overlay, t, card, err);
	if (r < 0)
		return cs_fail_in(err, r, "template '%s'", card->template);
	*ret = cs_steal(overlay);
	return 0;
}

static void populate(const struct cs_overlay *overlay, enum cs_hot_kind kind)
{
	cs_ram_populate(&overlay->ram, overlay->hot.list[kind].range, overlay->hot.list[kind].n);
}

int cs_overlay_map(struct cs_overlay *overlay, struct cs_err *err)
{
	int r;

	if (overlay->mapped)
		return 0;
	r = cs_ram_map(&overlay->ram, overlay->root.bytes ? &overlay->root : NULL,
		       overlay->memory.bytes ? &overlay->memory : NULL, err);
	overlay->mapped = r == 0;
	if (r == 0)
		populate(overlay, CS_HOT_WAKE);
	return r;
}

const struct cs_page_range *cs_overlay_use(const struct cs_overlay *overlay,
					   enum cs_overlay_use use, size_t *ret_n)
{
	static const enum cs_hot_kind kind[] = {
		[CS_USE_WAKE] = CS_HOT_WAKE_SEEN,
		[CS_USE_EXEC_WRITE] = CS_HOT_EXEC,
		[CS_USE_EXEC_READ] = CS_HOT_EXEC_SEEN,
	};
	const struct cs_hot_list *list = &overlay->hot.list[kind[use]];

	*ret_n = list->n;
	return list->range;
}

void cs_overlay_expect_exec(const struct cs_overlay *overlay)
{
	if (overlay->mapped)
		populate(overlay, CS_HOT_EXEC);
}

const struct cs_ram *cs_overlay_ram(const struct cs_overlay *overlay)
{
	return &overlay->ram;
}

const struct cs_view *cs_overlay_memory(const struct cs_overlay *overlay)
{
	return overlay->memory.bytes ? &overlay->memory : NULL;
}

const struct cs_disk *cs_overlay_disk(const struct cs_overlay *overlay)
{
	return overlay->disk.fd >= 0 ? &overlay->disk : NULL;
}

const struct cs_boot *cs_overlay_boot(const struct cs_overlay *overlay)
{
	return &overlay->boot;
}

int cs_overlay_dirfd(const struct cs_overlay *overlay)
{
	return overlay->dirfd;
}

bool cs_overlay_parked(const struct cs_overlay *overlay)
{
	return overlay->parked.state_fd >= 0;
}

int cs_overlay_woken(struct cs_overlay *overlay, struct cs_err *err)
{
	cs_parked_closep(&overlay->parked);
	overlay->boot.state_fd = overlay->boot.delta_fd = -1;
	/* One with a disk must never go on from a memory that is older. */
	return cs_parked_forget(overlay->dirfd, overlay->disk.fd >= 0, err);
}

struct cs_overlay *cs_overlay_free(struct cs_overlay *overlay)
{
	if (!overlay)
		return NULL;
	if (overlay->mapped)
		cs_ram_unmap(&overlay->ram);
	cs_hot_clear(&overlay->hot);
	cs_parked_closep(&overlay->parked);
	cs_fd_closep(&overlay->disk.under_fd);
	cs_fd_closep(&overlay->disk.fd);
	cs_fd_closep(&overlay->dirfd);
	free(overlay);
	return NULL;
}

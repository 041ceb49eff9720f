/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest's sketch comes from its monitor, and what is worth merging goes back there: in files of
 * memory, each for one question, since a monitor that a guest broke into could keep them. */
#include "ksm/cmd-ksm.h"

#include <errno.h>
#include <stdlib.h>

#include "cow/life.h"
#include "ksm/alike.h"
#include "ksm/enroll.h"
#include "store/base/io.h"
#include "store/base/own.h"
#include "vmm/cmd-common.h"
#include "vmm/control.h"
#include "vmm/sketch.h"

_Static_assert(CS_KSM_SKETCH_RANGES <= CS_KSM_RANGES_MAX, "what a monitor takes");

static int ask(struct cs_store *store, const char *name, const char *line, int fd,
	       unsigned timeout_ms, char **ret, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	int r;

	r = cs_guest_open(store, name, &dirfd, err);
	return r < 0 ? r : cs_control_call_with(dirfd, line, fd, timeout_ms, ret, err);
}

int cs_ksm_sketch(struct cs_store *store, const char *name, unsigned timeout_ms,
		  struct cs_alike *alike)
{
	cs_auto(cs_fd_closep) int fd =
		cs_cmd_memory_file("sketch", CS_SKETCH_PAGES_MAX * sizeof(struct cs_sketch_page));
	cs_auto(cs_mem_freep) struct cs_sketch_page *page = NULL;
	cs_auto(cs_mem_freep) char *text = NULL;
	uint64_t n;
	int r;

	if (fd < 0)
		return fd;
	r = ask(store, name, "sketch", fd, timeout_ms, &text, NULL);
	if (r < 0)
		return r;
	/* What a monitor says is not to be relied on. */
	if (cs_cmd_status_number(text, "pages", &n) < 0 || n > CS_SKETCH_PAGES_MAX)
		return -EBADMSG;
	page = calloc(n + 1, sizeof(*page));
	if (!page)
		return -ENOMEM;
	r = cs_pread_full(fd, page, n * sizeof(*page), 0);
	return r < 0 ? r : cs_alike_add(alike, page, n);
}

int cs_ksm_enroll_alike(struct cs_store *store, const char *name, unsigned timeout_ms,
			const struct cs_alike *alike, size_t index, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	struct cs_page_range range[CS_KSM_SKETCH_RANGES];
	uint64_t pages;
	size_t n;
	int r;

	cs_alike_ranges(alike, index, range, CS_KSM_SKETCH_RANGES, &n, &pages);
	fd = cs_cmd_memory_file("ranges", n * sizeof(range[0]));
	if (fd < 0)
		return cs_fail_errno(err, -fd, "cannot make a file in memory");
	r = cs_pwrite_full(fd, range, n * sizeof(range[0]), 0);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot write to a file in memory");
	return ask(store, name, "enroll on", fd, timeout_ms, NULL, err);
}

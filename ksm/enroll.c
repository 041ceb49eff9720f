/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/enroll.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "store/base/io.h"

bool cs_ksm_may_merge(enum cs_backing backing)
{
	switch (backing) {
	case CS_BACKING_ANON:
	case CS_BACKING_COW:
		return true;
	case CS_BACKING_DAXCOW:
	case CS_BACKING_SHARED:
		return false;
	}
	return false;
}

struct advice {
	bool on;
	uint64_t bytes; /* so many are */
};

/* What may be merged, and is mapped. */
static int advise(const struct cs_seg *seg, uint64_t offset, uint64_t bytes, void *arg)
{
	struct advice *advice = arg;

	if (!cs_ksm_may_merge(seg->backing) || !seg->host)
		return 0;
	if (madvise((char *)seg->host + offset, bytes,
		    advice->on ? MADV_MERGEABLE : MADV_UNMERGEABLE) < 0)
		return -errno;
	advice->bytes += bytes;
	return 0;
}

/* Pages (from) to (to), that one not included: what lies in segments that may be merged. */
static int advise_span(const struct cs_ram *ram, uint64_t from, uint64_t to, bool on,
		       uint64_t *ret_bytes)
{
	struct advice advice = { .on = on };
	int r = cs_ram_each(ram, from, to, advise, &advice);

	*ret_bytes += advice.bytes;
	return r;
}

static uint64_t pages_of(const struct cs_ram *ram)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < ram->n; i++)
		pages += ram->seg[i].backing == CS_BACKING_SHARED
				 ? 0
				 : ram->seg[i].bytes / CS_PAGE_BYTES;
	return pages;
}

static int read_ranges(const struct cs_ram *ram, int fd, struct cs_page_range *range, size_t *ret_n)
{
	const uint64_t pages = pages_of(ram);
	uint64_t at = 0;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	*ret_n = (size_t)st.st_size / sizeof(range[0]);
	if (st.st_size < 0 || (size_t)st.st_size % sizeof(range[0]) || *ret_n > CS_KSM_RANGES_MAX)
		return -ERANGE;
	r = cs_pread_full(fd, range, *ret_n * sizeof(range[0]), 0);
	for (size_t i = 0; i < *ret_n && r == 0; i++) {
		if (range[i].first < at || range[i].first + (uint64_t)range[i].pages > pages)
			r = -ERANGE;
		at = range[i].first + (uint64_t)range[i].pages;
	}
	return r;
}

static int advise_ranges(const struct cs_ram *ram, int fd, uint64_t *ret_bytes)
{
	struct cs_page_range range[CS_KSM_RANGES_MAX];
	uint64_t at = 0, out = 0;
	size_t n = 0;
	int r;

	r = read_ranges(ram, fd, range, &n);
	for (size_t i = 0; i < n && r == 0; i++) {
		r = advise_span(ram, at, range[i].first, false, &out);
		at = range[i].first + (uint64_t)range[i].pages;
		if (r == 0)
			r = advise_span(ram, range[i].first, at, true, ret_bytes);
	}
	return r < 0 ? r : advise_span(ram, at, pages_of(ram), false, &out);
}

int cs_ksm_enroll(const struct cs_ram *ram, bool on, int ranges_fd, uint64_t *ret_bytes,
		  struct cs_err *err)
{
	uint64_t bytes = 0, taken = 0;
	int r;

	r = on && ranges_fd >= 0 ? advise_ranges(ram, ranges_fd, &bytes)
				 : advise_span(ram, 0, UINT64_MAX, on, &bytes);
	if (r == 0) {
		if (ret_bytes)
			*ret_bytes = bytes;
		return 0;
	}
	/* Half a guest in the tree would be neither the one nor the other. */
	if (on)
		advise_span(ram, 0, UINT64_MAX, false, &taken);
	if (r == -ERANGE)
		return cs_fail(err, EINVAL, "enroll: not a file of ranges of its memory");
	if (r == -EINVAL)
		return cs_fail(err, EINVAL, "this kernel merges no memory (CONFIG_KSM)");
	return cs_fail_errno(err, r,
			     on ? "cannot let its memory be merged"
				: "cannot take its memory out of merging");
}

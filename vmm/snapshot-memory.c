/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/snapshot-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"

/* PAGEMAP_SCAN came with Linux 6.7 (include/uapi/linux/fs.h), Debian 12's headers are older. */
struct scan_region {
	uint64_t start, end, categories;
};

struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN             _IOWR('f', 16, struct scan_arg)
#define SCAN_IS_FILE     (UINT64_C(1) << 2)
#define SCAN_IS_PRESENT  (UINT64_C(1) << 3)
#define SCAN_IS_SWAPPED  (UINT64_C(1) << 4)
#define SCAN_REGIONS     256
#define ENTRY_IS_FILE    (UINT64_C(1) << 61) /* Documentation/admin-guide/mm/pagemap.rst */
#define ENTRY_IS_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_IS_PRESENT (UINT64_C(1) << 63)
#define ENTRIES          512

#define CHUNK_BYTES (UINT64_C(1) << 20) /* between two questions whether to go on */

static const char zero_page[CS_PAGE_BYTES];

int cs_pagemap_open(void)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

const unsigned long *cs_snapshot_ioctls(size_t *ret_n)
{
	static const unsigned long list[] = {
		SCAN,    /* which pages of its memory are its own */
		FICLONE, /* a picture of its disk */
	};

	*ret_n = sizeof(list) / sizeof(list[0]);
	return list;
}

/* ---- finding */

/* What is looked for, and where it goes. */
struct search {
	struct cs_picture *picture;
	int fd;
	const char *host; /* of the segment */
	uint64_t offset;  /* of the segment in the file */
	bool over;        /* pages of files are not the machine's own */
};

static int add(const struct search *search, const char *host, uint64_t bytes)
{
	struct cs_picture *picture = search->picture;
	struct cs_stretch *last = picture->n ? &picture->stretch[picture->n - 1] : NULL;
	const uint64_t offset = search->offset + (uint64_t)(host - search->host);

	if (bytes == 0)
		return 0;
	if (last && last->host + last->bytes == host && last->offset + last->bytes == offset &&
	    last->over == search->over) {
		last->bytes += bytes;
		return 0;
	}
	if (picture->n == picture->room) {
		const size_t room = picture->room ? 2 * picture->room : SCAN_REGIONS;
		void *more = reallocarray(picture->stretch, room, sizeof(*picture->stretch));

		if (!more)
			return -ENOMEM;
		picture->stretch = more;
		picture->room = room;
	}
	picture->stretch[picture->n++] = (struct cs_stretch){
		.host = host, .offset = offset, .bytes = bytes, .over = search->over
	};
	return 0;
}

/* By the kernel's own walk, which jumps over what is not there. -ENOTTY: an older kernel. */
static int find_by_scan(const struct search *search, const char *from, uint64_t bytes)
{
	struct scan_region region[SCAN_REGIONS];
	struct scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)from,
		.end = (uintptr_t)from + bytes,
		.vec = (uintptr_t)region,
		.vec_len = SCAN_REGIONS,
		.category_inverted = search->over ? SCAN_IS_FILE : 0,
		.category_mask = search->over ? SCAN_IS_FILE : 0,
		.category_anyof_mask = SCAN_IS_PRESENT | SCAN_IS_SWAPPED,
		.return_mask = SCAN_IS_PRESENT,
	};

	while (arg.start < arg.end) {
		const int n = ioctl(search->fd, SCAN, &arg);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++) {
			const char *host = from + (region[i].start - (uintptr_t)from);
			int r = add(search, host, region[i].end - region[i].start);

			if (r < 0)
				return r;
		}
		if (arg.walk_end <= arg.start)
			return -EIO;
		arg.start = arg.walk_end;
	}
	return 0;
}

/* An entry of eight bytes a page, whether it is there or not. */
static int find_by_reading(const struct search *search, const char *from, uint64_t bytes)
{
	uint64_t entry[ENTRIES];
	const char *end = from + bytes;

	while (from < end) {
		uint64_t pages = (uint64_t)(end - from) / CS_PAGE_BYTES;
		int r;

		if (pages > ENTRIES)
			pages = ENTRIES;
		r = cs_pread_full(search->fd, entry, pages * sizeof(entry[0]),
				  (uintptr_t)from / CS_PAGE_BYTES * sizeof(entry[0]));
		for (uint64_t i = 0; i < pages && r == 0; i++, from += CS_PAGE_BYTES) {
			if ((entry[i] & (ENTRY_IS_PRESENT | ENTRY_IS_SWAPPED)) &&
			    !(search->over && (entry[i] & ENTRY_IS_FILE)))
				r = add(search, from, CS_PAGE_BYTES);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int find(const struct search *search, const char *from, uint64_t bytes)
{
	int r = bytes ? find_by_scan(search, from, bytes) : 0;

	return r == -ENOTTY || r == -EINVAL ? find_by_reading(search, from, bytes) : r;
}

/* A segment that began as zeroes, but for what was mapped over it. */
static int find_in_anon(const struct search *search, const struct cs_seg *seg,
			const struct cs_boot_span *file)
{
	const char *at = seg->host, *end = at + seg->bytes;
	int r = 0;

	for (size_t i = 0; file && i < CS_BOOT_FILES && r == 0; i++) {
		const uint64_t first = cs_align_down(file[i].gpa, CS_PAGE_BYTES);
		const uint64_t last = cs_align_up(file[i].gpa + file[i].bytes, CS_PAGE_BYTES);
		const char *from = (const char *)seg->host + (first - seg->gpa);

		if (!file[i].bytes || first < seg->gpa || last > seg->gpa + seg->bytes || from < at)
			continue;
		r = find(search, at, (uint64_t)(from - at));
		if (r == 0)
			r = add(search, from, last - first);
		at = from + (last - first);
	}
	return r < 0 ? r : find(search, at, (uint64_t)(end - at));
}

static int take(int pagemap_fd, const struct cs_ram *ram, const struct cs_boot_span *file,
		bool seen, struct cs_picture *ret)
{
	struct search search = { .picture = ret, .fd = pagemap_fd };
	int r = 0;

	*ret = (struct cs_picture){ 0 };
	for (size_t i = 0; i < ram->n && r == 0; i++) {
		const struct cs_seg *seg = &ram->seg[i];

		if (seg->backing == CS_BACKING_SHARED)
			continue;
		search.host = seg->host;
		search.offset = ret->file_bytes;
		search.over = seg->backing != CS_BACKING_ANON && !seen;
		ret->over = ret->over || search.over;
		ret->file_bytes += seg->bytes;
		r = search.over || seen ? find(&search, seg->host, seg->bytes)
					: find_in_anon(&search, seg, file);
	}
	return r;
}

int cs_picture_take(int pagemap_fd, const struct cs_ram *ram, const struct cs_boot_span *file,
		    struct cs_picture *ret)
{
	return take(pagemap_fd, ram, file, false, ret);
}

int cs_picture_take_seen(int pagemap_fd, const struct cs_ram *ram, struct cs_picture *ret)
{
	return take(pagemap_fd, ram, NULL, true, ret);
}

int cs_picture_add(struct cs_picture *picture, const struct cs_ram *ram, const void *host,
		   size_t bytes)
{
	struct search search = { .picture = picture };

	for (size_t i = 0; i < ram->n; i++) {
		const struct cs_seg *seg = &ram->seg[i];
		const uint64_t first = (uint64_t)((uintptr_t)host - (uintptr_t)seg->host);
		const uint64_t from = cs_align_down(first, CS_PAGE_BYTES);

		if (seg->backing == CS_BACKING_SHARED)
			continue;
		search.host = seg->host;
		search.over = seg->backing != CS_BACKING_ANON;
		if ((uintptr_t)host >= (uintptr_t)seg->host && first < seg->bytes &&
		    bytes <= seg->bytes - first)
			return add(&search, search.host + from,
				   cs_align_up(first + bytes, CS_PAGE_BYTES) - from);
		search.offset += seg->bytes;
	}
	return -EFAULT;
}

void cs_picture_clear(struct cs_picture *picture)
{
	free(picture->stretch);
	*picture = (struct cs_picture){ 0 };
}

/* ---- writing */

/* The file may hold what the parent had there: what is zero now must read as zero. */
static int put_zeroes(int fd, uint64_t offset, uint64_t bytes)
{
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
		      (off_t)bytes) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return -errno;
	for (uint64_t at = 0; at < bytes; at += CS_PAGE_BYTES) {
		int r = cs_pwrite_full(fd, zero_page, CS_PAGE_BYTES, offset + at);

		if (r < 0)
			return r;
	}
	return 0;
}

static uint64_t run_of(const char *host, uint64_t bytes, bool *ret_zero)
{
	uint64_t run = CS_PAGE_BYTES;

	*ret_zero = memcmp(host, zero_page, CS_PAGE_BYTES) == 0;
	while (run < bytes && (memcmp(host + run, zero_page, CS_PAGE_BYTES) == 0) == *ret_zero)
		run += CS_PAGE_BYTES;
	return run;
}

static int put_chunk(const struct cs_stretch *s, uint64_t from, uint64_t bytes, int fd,
		     struct cs_picture_count *count)
{
	while (bytes) {
		bool zero;
		const uint64_t run = run_of(s->host + from, bytes, &zero);
		int r = 0;

		if (!zero)
			r = cs_pwrite_full(fd, s->host + from, run, s->offset + from);
		else if (s->over)
			r = put_zeroes(fd, s->offset + from, run);
		if (r < 0)
			return r;
		count->bytes += zero ? 0 : run;
		count->pages += run / CS_PAGE_BYTES;
		from += run;
		bytes -= run;
	}
	return 0;
}

/* A new file becomes one hole; a clone of the parent's memory must be just that. */
static int prepare(const struct cs_picture *picture, int fd, struct cs_err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "cannot save its memory");
	if (picture->over && (uint64_t)st.st_size != picture->file_bytes)
		return cs_fail(err, EINVAL,
			       "cannot save its memory: the file has %" PRIu64
			       " bytes, and is no copy of what it came from, which has %" PRIu64,
			       (uint64_t)st.st_size, picture->file_bytes);
	if (!picture->over &&
	    (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)picture->file_bytes) < 0))
		return cs_fail_errno(err, errno, "cannot save its memory");
	return 0;
}

int cs_picture_write(const struct cs_picture *picture, int fd, bool (*go_on)(void *arg), void *arg,
		     struct cs_picture_count *ret, struct cs_err *err)
{
	struct cs_picture_count count = { 0 };
	int r = prepare(picture, fd, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < picture->n; i++) {
		const struct cs_stretch *s = &picture->stretch[i];

		for (uint64_t at = 0; at < s->bytes; at += CHUNK_BYTES) {
			const uint64_t left = s->bytes - at;

			if (!go_on(arg))
				return cs_fail(err, ECANCELED, "cannot save its memory: given up");
			r = put_chunk(s, at, left < CHUNK_BYTES ? left : CHUNK_BYTES, fd, &count);
			if (r < 0)
				return cs_fail_errno(err, -r, "cannot save its memory");
		}
	}
	*ret = count;
	return 0;
}

#define RANGES 512 /* at a time */

int cs_picture_ranges(const struct cs_picture *picture, int fd, size_t *ret_n)
{
	struct cs_page_range range[RANGES];

	if (picture->n > CS_PICTURE_RANGES_MAX || picture->file_bytes / CS_PAGE_BYTES > UINT32_MAX)
		return -EFBIG;
	for (size_t at = 0; at < picture->n; at += RANGES) {
		const size_t n = picture->n - at < RANGES ? picture->n - at : RANGES;
		int r;

		for (size_t i = 0; i < n; i++) {
			const struct cs_stretch *s = &picture->stretch[at + i];

			range[i].first = (uint32_t)(s->offset / CS_PAGE_BYTES);
			range[i].pages = (uint32_t)(s->bytes / CS_PAGE_BYTES);
		}
		r = cs_pwrite_full(fd, range, n * sizeof(range[0]), at * sizeof(range[0]));
		if (r < 0)
			return r;
	}
	*ret_n = picture->n;
	return 0;
}

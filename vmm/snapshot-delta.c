/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/snapshot-delta.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define VERSION     1u
#define DATA_OFFSET CS_PAGE_BYTES
#define ZEROES      1u
#define CHUNK_PAGES 256u                 /* between two questions whether to go on */
#define ENTRIES_MAX (UINT64_C(64) << 20) /* a page each of 256 GiB */
#define PIECES      256u                 /* read by one call */

static const char magic[8] = "CSDELTA";
static const char zero_page[CS_PAGE_BYTES];

struct head {
	char magic[8];
	uint32_t version, entries;
	uint64_t memory_bytes, data_bytes;
};

struct entry {
	uint64_t offset;
	uint32_t pages, kind;
};

_Static_assert(sizeof(struct head) == 32 && sizeof(struct entry) == 16, "as in the header");

/* ---- writing */

struct writer {
	int fd;
	struct entry *entry;
	size_t n, room;
	uint64_t data_bytes;
	struct cs_picture_count count;
};

static void writer_close(struct writer *w)
{
	free(w->entry);
}

static int add_entry(struct writer *w, uint64_t offset, uint32_t pages, uint32_t kind)
{
	struct entry *last = w->n ? &w->entry[w->n - 1] : NULL;

	if (last && last->kind == kind && last->offset + last->pages * CS_PAGE_BYTES == offset &&
	    last->pages < UINT32_MAX - pages) {
		last->pages += pages;
		return 0;
	}
	if (w->n == w->room) {
		const size_t room = w->room ? 2 * w->room : PIECES;
		void *more = reallocarray(w->entry, room, sizeof(*w->entry));

		if (!more)
			return -ENOMEM;
		w->entry = more;
		w->room = room;
	}
	w->entry[w->n++] = (struct entry){ .offset = offset, .pages = pages, .kind = kind };
	return 0;
}

static bool is_zero(const char *page)
{
	return memcmp(page, zero_page, CS_PAGE_BYTES) == 0;
}

/* (pages) of a stretch from (at) on. */
static int put(struct writer *w, const struct cs_stretch *s, uint64_t at, uint32_t pages)
{
	while (pages) {
		const char *host = s->host + at;
		const bool zero = is_zero(host);
		uint32_t run = 1;
		int r = 0;

		while (run < pages && is_zero(host + run * CS_PAGE_BYTES) == zero)
			run++;
		/* Where nothing was before, zeroes are there already. */
		if (!zero || s->over)
			r = add_entry(w, s->offset + at, run, zero ? ZEROES : 0);
		if (r == 0 && !zero) {
			r = cs_pwrite_full(w->fd, host, run * CS_PAGE_BYTES,
					   DATA_OFFSET + w->data_bytes);
			w->data_bytes += run * CS_PAGE_BYTES;
			w->count.bytes += run * CS_PAGE_BYTES;
		}
		if (r < 0)
			return r;
		w->count.pages += run;
		at += run * CS_PAGE_BYTES;
		pages -= run;
	}
	return 0;
}

static int put_index(struct writer *w, uint64_t memory_bytes)
{
	struct head head = { .version = VERSION,
			     .entries = (uint32_t)w->n,
			     .memory_bytes = memory_bytes,
			     .data_bytes = w->data_bytes };
	int r;

	if (w->n > ENTRIES_MAX)
		return -EFBIG;
	memcpy(head.magic, magic, sizeof(magic));
	/* Its size is part of it, also when there is nothing to write. */
	if (ftruncate(w->fd, (off_t)(DATA_OFFSET + w->data_bytes + w->n * sizeof(*w->entry))) < 0)
		return -errno;
	r = w->n ? cs_pwrite_full(w->fd, w->entry, w->n * sizeof(*w->entry),
				  DATA_OFFSET + w->data_bytes)
		 : 0;
	/* Last: without it the file is none. */
	return r < 0 ? r : cs_pwrite_full(w->fd, &head, sizeof(head), 0);
}

int cs_delta_write(const struct cs_picture *picture, int fd, bool (*go_on)(void *arg), void *arg,
		   struct cs_picture_count *ret, struct cs_err *err)
{
	cs_auto(writer_close) struct writer w = { .fd = fd };
	int r = ftruncate(fd, 0) < 0 ? -errno : 0;

	for (size_t i = 0; i < picture->n && r == 0; i++) {
		const struct cs_stretch *s = &picture->stretch[i];
		uint64_t left = s->bytes / CS_PAGE_BYTES;

		for (uint64_t at = 0; left && r == 0;) {
			const uint32_t pages = left < CHUNK_PAGES ? (uint32_t)left : CHUNK_PAGES;

			if (!go_on(arg))
				return cs_fail(err, ECANCELED, "cannot save its memory: given up");
			r = put(&w, s, at, pages);
			at += pages * CS_PAGE_BYTES;
			left -= pages;
		}
	}
	if (r == 0)
		r = put_index(&w, picture->file_bytes);
	if (r < 0)
		return cs_fail_errno(err, r, "cannot save its memory");
	*ret = w.count;
	return 0;
}

/* ---- reading */

static uint64_t memory_bytes(const struct cs_ram *ram)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < ram->n; i++) {
		if (ram->seg[i].backing != CS_BACKING_SHARED)
			bytes += ram->seg[i].bytes;
	}
	return bytes;
}

/* Where (offset) of the memory is mapped, and how many of (bytes) lie there in one piece. NULL:
 * nowhere. */
static char *host_of(const struct cs_ram *ram, uint64_t offset, uint64_t bytes, uint64_t *ret)
{
	for (size_t i = 0; i < ram->n; i++) {
		const struct cs_seg *seg = &ram->seg[i];

		if (seg->backing == CS_BACKING_SHARED)
			continue;
		if (offset < seg->bytes) {
			const uint64_t left = seg->bytes - offset;

			*ret = bytes < left ? bytes : left;
			return (char *)seg->host + offset;
		}
		offset -= seg->bytes;
	}
	return NULL;
}

struct reader {
	const struct cs_ram *ram;
	int fd;
	uint64_t at; /* in the file, of the first piece */
	struct iovec piece[PIECES];
	unsigned n;
};

static int flush(struct reader *reader)
{
	struct iovec *piece = reader->piece;
	unsigned n = reader->n;

	while (n) {
		ssize_t got = preadv(reader->fd, piece, (int)n, (off_t)reader->at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -ENODATA;
		reader->at += (uint64_t)got;
		for (; n && (size_t)got >= piece->iov_len; piece++, n--)
			got -= (ssize_t)piece->iov_len;
		if (n) {
			piece->iov_base = (char *)piece->iov_base + got;
			piece->iov_len -= (size_t)got;
		}
	}
	reader->n = 0;
	return 0;
}

static int read_entry(struct reader *reader, const struct entry *entry)
{
	uint64_t offset = entry->offset, left = entry->pages * CS_PAGE_BYTES;

	while (left) {
		uint64_t bytes;
		char *host = host_of(reader->ram, offset, left, &bytes);
		int r = 0;

		if (!host)
			return -EBADMSG;
		if (entry->kind == ZEROES) {
			memset(host, 0, bytes);
		} else {
			if (reader->n == PIECES)
				r = flush(reader);
			reader->piece[reader->n++] = (struct iovec){ host, bytes };
		}
		if (r < 0)
			return r;
		offset += bytes;
		left -= bytes;
	}
	return 0;
}

/* All that is there hangs together: sizes add up, and no entry leaves the memory. */
static int check(const struct head *head, const struct entry *entry)
{
	uint64_t data = 0, all = 0;

	for (uint32_t i = 0; i < head->entries; i++) {
		const uint64_t bytes = entry[i].pages * CS_PAGE_BYTES;

		if (entry[i].kind > ZEROES || !entry[i].pages || entry[i].offset % CS_PAGE_BYTES ||
		    entry[i].offset > head->memory_bytes ||
		    bytes > head->memory_bytes - entry[i].offset)
			return -EBADMSG;
		all += bytes;
		if (all > 2 * head->memory_bytes)
			return -EBADMSG;
		data += entry[i].kind == ZEROES ? 0 : bytes;
	}
	return data == head->data_bytes ? 0 : -EBADMSG;
}

static int read_index(int fd, const struct cs_ram *ram, struct head *head, struct entry **ret,
		      struct cs_err *err)
{
	cs_auto(cs_mem_freep) struct entry *entry = NULL;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "cannot read its memory");
	r = cs_pread_full(fd, head, sizeof(*head), 0);
	if (r < 0 || memcmp(head->magic, magic, sizeof(magic)) != 0 || head->version != VERSION)
		return cs_fail(err, EBADMSG, "its parked memory is none that this version knows");
	if (head->memory_bytes != memory_bytes(ram))
		return cs_fail(err, ESTALE, "its parked memory is of another size");
	if (head->data_bytes % CS_PAGE_BYTES || head->data_bytes > INT64_MAX / 2 ||
	    (uint64_t)st.st_size != DATA_OFFSET + head->data_bytes + head->entries * sizeof(*entry))
		return cs_fail(err, EBADMSG, "its parked memory is broken: not of its size");
	/* A page may be in it twice; more is not what a monitor writes, and would keep who reads it
	 * busy. */
	if (head->entries > 2 * (head->memory_bytes / CS_PAGE_BYTES))
		return cs_fail(err, EBADMSG, "its parked memory is broken: too many entries");
	entry = malloc(head->entries * sizeof(*entry) + 1);
	if (!entry)
		return cs_fail_errno(err, ENOMEM, "cannot read its memory");
	r = cs_pread_full(fd, entry, head->entries * sizeof(*entry),
			  DATA_OFFSET + head->data_bytes);
	if (r < 0)
		return cs_fail_errno(err, r, "cannot read its memory");
	if (check(head, entry) < 0)
		return cs_fail(err, EBADMSG, "its parked memory is broken");
	*ret = cs_steal(entry);
	return 0;
}

int cs_delta_read(const struct cs_ram *ram, int fd, struct cs_err *err)
{
	cs_auto(cs_mem_freep) struct entry *entry = NULL;
	struct reader reader = { .ram = ram, .fd = fd, .at = DATA_OFFSET };
	struct head head;
	int r;

	r = read_index(fd, ram, &head, &entry, err);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < head.entries && r == 0; i++)
		r = read_entry(&reader, &entry[i]);
	if (r == 0)
		r = flush(&reader);
	if (r < 0)
		return cs_fail_errno(err, r, "cannot read its memory");
	/* It is in the guest's memory now: nobody needs it in the page cache too. */
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	return 0;
}

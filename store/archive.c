/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/archive.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "store/base/io.h"
#include "store/base/text.h"
#include "store/libarchive.h"

#define STEP_BYTES (UINT64_C(1) << 18)

/* ---- unpacking ---- */

struct feed {
	const struct cs_libarchive *la;
	int fd;
	uint64_t at, end;
	unsigned char *buf;
};

static la_ssize_t feed_more(struct archive *archive, void *arg, const void **ret)
{
	struct feed *feed = arg;
	uint64_t part = feed->end - feed->at < STEP_BYTES ? feed->end - feed->at : STEP_BYTES;
	int r;

	r = cs_pread_full(feed->fd, feed->buf, part, feed->at);
	if (r < 0) {
		feed->la->archive_set_error(archive, -r, "cannot be read");
		return -1;
	}
	feed->at += part;
	*ret = feed->buf;
	return (la_ssize_t)part;
}

static int fail_archive(const struct cs_libarchive *la, struct archive *archive, struct cs_err *err)
{
	const char *said = la->archive_error_string(archive);
	char words[160];

	snprintf(words, sizeof(words), "%s", said ? said : "damaged");
	return cs_fail(err, EINVAL, "cannot be unpacked: %s", cs_text_clean(words, false));
}

static int drain(const struct cs_libarchive *la, struct archive *archive,
		 const struct cs_archive_stream *stream, cs_archive_fn fn, void *arg,
		 struct cs_err *err)
{
	struct archive_entry *entry;
	uint64_t left = stream->max_bytes;
	const void *data;
	la_int64_t offset;
	size_t n;
	int r;

	if (la->archive_read_next_header(archive, &entry) < ARCHIVE_WARN)
		return fail_archive(la, archive, err);
	for (;;) {
		r = la->archive_read_data_block(archive, &data, &n, &offset);
		if (r == ARCHIVE_EOF)
			return 0;
		if (r < ARCHIVE_WARN)
			return fail_archive(la, archive, err);
		if (n > left)
			return cs_fail(err, EFBIG, "unpacks to more than %llu bytes",
				       (unsigned long long)stream->max_bytes);
		left -= n;
		r = fn(arg, data, n, err);
		if (r)
			return r;
	}
}

static int unpack(struct archive *archive, const struct cs_archive_stream *stream,
		  struct feed *feed, cs_archive_fn fn, void *arg, struct cs_err *err)
{
	const struct cs_libarchive *la = feed->la;

	la->archive_read_support_filter_gzip(archive);
	la->archive_read_support_filter_bzip2(archive);
	la->archive_read_support_filter_lzma(archive);
	la->archive_read_support_filter_xz(archive);
	la->archive_read_support_filter_lz4(archive);
	la->archive_read_support_filter_zstd(archive);
	la->archive_read_support_format_raw(archive);
	if (la->archive_read_open(archive, feed, NULL, feed_more, NULL) != ARCHIVE_OK)
		return fail_archive(la, archive, err);
	return drain(la, archive, stream, fn, arg, err);
}

int cs_archive_unpack(const struct cs_archive_stream *stream, cs_archive_fn fn, void *arg,
		      struct cs_err *err)
{
	cs_auto(cs_mem_freep) unsigned char *buf = malloc(STEP_BYTES);
	struct archive *archive;
	struct cs_libarchive la;
	struct feed feed = {
		.la = &la,
		.fd = stream->fd,
		.at = stream->offset,
		.end = stream->offset + stream->bytes,
		.buf = buf,
	};
	int r;

	r = cs_libarchive_load(&la, err);
	if (r < 0)
		return r;
	archive = la.archive_read_new();
	if (archive && buf)
		r = unpack(archive, stream, &feed, fn, arg, err);
	else
		r = cs_fail_errno(err, ENOMEM, "libarchive");
	la.archive_read_free(archive);
	return r;
}

/* ---- cpio ---- */

struct cs_cpio {
	struct cs_libarchive la;
	struct archive *archive;
	struct archive_entry *entry; /* used again for each */
	bool failed;
};

int cs_cpio_open(int fd, struct cs_cpio **ret, struct cs_err *err)
{
	cs_auto(cs_cpio_freep) struct cs_cpio *cpio = calloc(1, sizeof(*cpio));
	const struct cs_libarchive *la;
	int r;

	if (!cpio)
		return cs_fail_errno(err, ENOMEM, "cpio");
	la = &cpio->la;
	r = cs_libarchive_load(&cpio->la, err);
	if (r < 0)
		return r;
	cpio->archive = la->archive_write_new();
	cpio->entry = la->archive_entry_new();
	if (!cpio->archive || !cpio->entry)
		return cs_fail_errno(err, ENOMEM, "cpio");
	if (la->archive_write_set_format_cpio_newc(cpio->archive) != ARCHIVE_OK ||
	    la->archive_write_open_fd(cpio->archive, fd) != ARCHIVE_OK)
		return fail_archive(la, cpio->archive, err);
	*ret = cs_steal(cpio);
	return 0;
}

static int add(struct cs_cpio *cpio, const char *path, unsigned mode, const void *data,
	       size_t bytes)
{
	const struct cs_libarchive *la = &cpio->la;
	struct archive_entry *entry = la->archive_entry_clear(cpio->entry);

	la->archive_entry_set_pathname(entry, path);
	la->archive_entry_set_mode(entry, mode);
	la->archive_entry_set_nlink(entry, S_ISDIR(mode) ? 2 : 1);
	la->archive_entry_set_size(entry, (la_int64_t)bytes);
	if (cpio->failed || la->archive_write_header(cpio->archive, entry) < ARCHIVE_WARN ||
	    (bytes && la->archive_write_data(cpio->archive, data, bytes) != (la_ssize_t)bytes)) {
		cpio->failed = true;
		return -EIO;
	}
	return 0;
}

int cs_cpio_folder(struct cs_cpio *cpio, const char *path)
{
	return add(cpio, path, S_IFDIR | 0755, NULL, 0);
}

int cs_cpio_file(struct cs_cpio *cpio, const char *path, unsigned mode, const void *data,
		 size_t bytes)
{
	return add(cpio, path, S_IFREG | mode, data, bytes);
}

int cs_cpio_finish(struct cs_cpio *cpio, struct cs_err *err)
{
	const struct cs_libarchive *la = &cpio->la;
	int code;

	if (!cpio->failed && la->archive_write_close(cpio->archive) == ARCHIVE_OK)
		return 0;
	code = la->archive_errno(cpio->archive);
	return cs_fail_errno(err, code > 0 ? code : EIO, "cannot write the initrd");
}

struct cs_cpio *cs_cpio_free(struct cs_cpio *cpio)
{
	if (!cpio)
		return NULL;
	if (cpio->entry)
		cpio->la.archive_entry_free(cpio->entry);
	if (cpio->archive)
		cpio->la.archive_write_free(cpio->archive);
	free(cpio);
	return NULL;
}

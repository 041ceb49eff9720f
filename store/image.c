/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/image.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/writer.h"

/* A hole in a guest's file is worth one from this size on: smaller ones would cost more in extents
 * than they save. */
#define HOLE_MIN (UINT64_C(64) << 10)

/* A sparse file's map has at most so many entries of 4 bytes: a larger file gets larger chunks. */
#define CHUNKS_MAX (UINT64_C(1) << 20)

struct cs_image {
	int fd; /* lent */
	uint64_t max_bytes;
	struct cs_writer *writer;
	/* the file being taken in */
	struct cs_node *node;
	uint64_t file_bytes, file_at;
	bool unknown;   /* its length is: no holes then */
	bool in_extent; /* the last extent of the node still grows */
};

int cs_image_open(int fd, uint64_t skip, uint64_t max_bytes, struct cs_image **ret,
		  struct cs_err *err)
{
	cs_auto(cs_image_freep) struct cs_image *image = calloc(1, sizeof(*image));
	int r;

	if (!image)
		return cs_fail_errno(err, ENOMEM, "image");
	image->fd = fd;
	image->max_bytes = max_bytes;
	r = cs_writer_open(fd, skip, &image->writer);
	if (r < 0)
		return cs_fail_errno(err, -r, "image");
	*ret = cs_steal(image);
	return 0;
}

void cs_image_share(struct cs_image *image, struct cs_share *share)
{
	cs_writer_share(image->writer, share);
}

uint64_t cs_image_tell(const struct cs_image *image)
{
	return cs_writer_tell(image->writer);
}

uint64_t cs_image_room(const struct cs_image *image)
{
	uint64_t at = cs_image_tell(image);

	return at < image->max_bytes ? image->max_bytes - at : 0;
}

static int fail_room(const struct cs_image *image, struct cs_err *err)
{
	char text[CS_BYTES_TEXT];

	return cs_fail(err, ENOSPC,
		       "needs more than the %s that the store can take (remove a template, or make "
		       "room on the disk under the store)",
		       cs_format_bytes(image->max_bytes, text));
}

static int fail_write(int r, struct cs_err *err)
{
	if (r == -ENOSPC || r == -EDQUOT)
		return cs_fail(err, -r,
			       "the store is full (remove a template, or make room on the disk "
			       "under the store)");
	return cs_fail_errno(err, -r, "cannot write the image");
}

int cs_image_append(struct cs_image *image, const void *data, uint64_t bytes, struct cs_err *err)
{
	int r;

	if (bytes > cs_image_room(image))
		return fail_room(image, err);
	r = cs_writer_append(image->writer, data, bytes);
	return r < 0 ? fail_write(r, err) : 0;
}

int cs_image_zero(struct cs_image *image, uint64_t bytes, struct cs_err *err)
{
	int r;

	if (bytes > cs_image_room(image))
		return fail_room(image, err);
	r = cs_writer_zero(image->writer, bytes);
	return r < 0 ? fail_write(r, err) : 0;
}

int cs_image_flush(struct cs_image *image, struct cs_err *err)
{
	int r = cs_writer_flush(image->writer);

	return r < 0 ? fail_write(r, err) : 0;
}

int cs_image_pad(struct cs_image *image, uint64_t align, struct cs_err *err)
{
	uint64_t at = cs_image_tell(image);

	return cs_image_zero(image, cs_align_up(at, align) - at, err);
}

int cs_image_file_begin(struct cs_image *image, struct cs_node *node, uint64_t bytes,
			struct cs_err *err)
{
	char text[CS_BYTES_TEXT];

	image->unknown = bytes == CS_FILE_UNKNOWN;
	if (image->unknown)
		bytes = CS_FILE_MAX;
	if (bytes > CS_FILE_MAX)
		return cs_fail(err, EFBIG, "%s is longer than a file may be (16 TiB)",
			       cs_format_bytes(bytes, text));

	free(node->extents);
	node->extents = NULL;
	node->extent_count = 0;
	node->bytes = 0;
	node->chunk_bits = 12;
	while (!image->unknown && bytes >> node->chunk_bits > CHUNKS_MAX)
		node->chunk_bits++;
	image->node = node;
	image->file_bytes = bytes;
	image->file_at = 0;
	image->in_extent = false;
	return 0;
}

/* The extent ends where the file is now, filled up to the end of its chunk or of the file. */
static int close_extent(struct cs_image *image, struct cs_err *err)
{
	struct cs_node *node = image->node;
	struct cs_extent *extent = &node->extents[node->extent_count - 1];
	uint64_t end = cs_align_up(image->file_at, UINT64_C(1) << node->chunk_bits);
	uint64_t last = cs_align_up(image->file_bytes, CS_IMAGE_BLOCK);
	int r;

	if (end > last)
		end = last;
	r = cs_image_zero(image, end - image->file_at, err);
	if (r < 0)
		return r;
	image->file_at = end;
	image->in_extent = false;
	extent->blocks = end / CS_IMAGE_BLOCK - extent->file_block;
	return 0;
}

/* A new extent begins where the file is now, on a chunk's border. */
static int open_extent(struct cs_image *image, struct cs_err *err)
{
	struct cs_node *node = image->node;
	struct cs_extent *grown = node->extents;
	size_t n = node->extent_count;
	int r;

	/* room doubles: 1, 2, 4, 8, ... */
	if ((n & (n - 1)) == 0)
		grown = reallocarray(node->extents, n ? 2 * n : 1, sizeof(*grown));
	if (!grown)
		return cs_fail_errno(err, ENOMEM, "map of a sparse file");
	node->extents = grown;
	r = cs_image_pad(image, CS_IMAGE_BLOCK, err);
	if (r < 0)
		return r;
	grown[n] = (struct cs_extent){
		.file_block = image->file_at / CS_IMAGE_BLOCK,
		.image_block = cs_image_tell(image) / CS_IMAGE_BLOCK,
	};
	node->extent_count = n + 1;
	image->in_extent = true;
	return 0;
}

/* Leave a hole from where the file is to (next), if it is worth one. */
static int leave_hole(struct cs_image *image, uint64_t next, struct cs_err *err)
{
	uint64_t settled = image->file_at;
	int r;

	if (image->in_extent)
		settled = cs_align_up(settled, UINT64_C(1) << image->node->chunk_bits);
	if (image->unknown || next <= settled || next - settled < HOLE_MIN)
		return 0;
	if (image->in_extent) {
		r = close_extent(image, err);
		if (r < 0)
			return r;
	}
	image->file_at = next;
	return 0;
}

/* Bring the file to (offset) by zeroes. */
static int fill_to(struct cs_image *image, uint64_t offset, struct cs_err *err)
{
	int r = 0;

	if (!image->in_extent)
		r = open_extent(image, err);
	if (r == 0)
		r = cs_image_zero(image, offset - image->file_at, err);
	if (r == 0)
		image->file_at = offset;
	return r;
}

int cs_image_file_data(struct cs_image *image, uint64_t offset, const void *data, uint64_t bytes,
		       struct cs_err *err)
{
	int r;

	if (!bytes)
		return 0;
	if (offset < image->file_at || offset > image->file_bytes ||
	    bytes > image->file_bytes - offset)
		return cs_fail(err, EINVAL, "its data is out of order or past its end");
	r = leave_hole(image, cs_align_down(offset, UINT64_C(1) << image->node->chunk_bits), err);
	if (r < 0)
		return r;
	if (!image->in_extent || offset > image->file_at) {
		r = fill_to(image, offset, err);
		if (r < 0)
			return r;
	}
	r = cs_image_append(image, data, bytes, err);
	if (r < 0)
		return r;
	image->file_at += bytes;
	return 0;
}

int cs_image_file_end(struct cs_image *image, struct cs_err *err)
{
	int r;

	if (image->unknown)
		image->file_bytes = image->file_at;
	r = leave_hole(image, image->file_bytes, err);
	if (r < 0)
		return r;
	if (image->file_at < image->file_bytes) {
		r = fill_to(image, image->file_bytes, err);
		if (r < 0)
			return r;
	}
	if (image->in_extent) {
		r = close_extent(image, err);
		if (r < 0)
			return r;
	}
	image->node->bytes = image->file_bytes;
	image->node = NULL;
	return 0;
}

int cs_image_read(struct cs_image *image, const struct cs_node *node, uint64_t offset, void *buf,
		  uint64_t bytes, struct cs_err *err)
{
	uint64_t from, to, start, end;
	int r;

	if (offset > node->bytes || bytes > node->bytes - offset)
		return cs_fail(err, ENODATA, "read past the end of a file");
	r = cs_image_flush(image, err);
	if (r < 0)
		return r;
	memset(buf, 0, bytes);
	for (size_t i = 0; i < node->extent_count; i++) {
		const struct cs_extent *extent = &node->extents[i];

		start = extent->file_block * CS_IMAGE_BLOCK;
		end = start + extent->blocks * CS_IMAGE_BLOCK;
		from = start > offset ? start : offset;
		to = end < offset + bytes ? end : offset + bytes;
		if (from >= to)
			continue;
		r = cs_pread_full(image->fd, (unsigned char *)buf + (from - offset), to - from,
				  extent->image_block * CS_IMAGE_BLOCK + (from - start));
		if (r < 0 && r != -ENODATA)
			return cs_fail_errno(err, -r, "cannot read the image back");
	}
	return 0;
}

struct cs_image *cs_image_free(struct cs_image *image)
{
	if (!image)
		return NULL;
	image->writer = cs_writer_free(image->writer);
	free(image);
	return NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/share.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>

#include "store/base/io.h"
#include "store/base/num.h"

#define BLOCK UINT64_C(4096)

/* A table of 8 bytes a slot, never over half full. */
#define SLOTS_MAX (UINT64_C(1) << 22)
#define SLOTS_MIN (UINT64_C(1) << 8)

/* Blocks with the same tag that are looked at: a root may be made of such. */
#define PROBES 32
#define TRIES  4

/* A clone is an extent: a shorter run costs more in extents than it saves in blocks. */
#define RUN_MIN (UINT64_C(16) << 10)

#define WINDOW_BYTES (UINT64_C(256) << 10) /* of the old file, read at a time */
#define COPY_BYTES   (UINT64_C(1) << 20)

struct slot {
	uint32_t tag;    /* of its hash */
	uint32_t number; /* of the block, plus one; 0: free */
};

struct cs_share {
	int old_fd; /* lent */
	uint64_t old_bytes;
	struct slot *slots;
	uint64_t slot_count; /* a power of two */
	uint64_t sampled;    /* only blocks are known whose hash has none of these bits */
	unsigned char *window;
	uint64_t window_at, window_bytes;
	/* a run that may go on: (run_bytes) at (run_from) of the old file for (run_to) of the new
	 */
	uint64_t run_from, run_to, run_bytes;
	bool refused; /* cloning does not work here */
	struct cs_share_count count;
};

/* ---- the blocks of the old file ---- */

/* Hashed by words in four lanes. What it finds is compared: it need not be strong. */
static uint64_t hash_block(const unsigned char *data)
{
	const uint64_t odd = UINT64_C(0x9e3779b97f4a7c15);
	uint64_t lane[4] = { 1, 2, 3, 4 }, word, hash = 0;

	for (size_t i = 0; i < BLOCK; i += sizeof(word)) {
		uint64_t *at = &lane[i / sizeof(word) % 4];

		memcpy(&word, data + i, sizeof(word));
		*at = (*at ^ word) * odd;
		*at ^= *at >> 29;
	}
	for (int i = 0; i < 4; i++)
		hash = (hash ^ lane[i]) * odd + (hash >> 31);
	return hash ^ hash >> 32;
}

static bool is_zero(const unsigned char *block)
{
	return !block[0] && !memcmp(block, block + 1, BLOCK - 1);
}

static void learn(struct cs_share *share, const unsigned char *block, uint64_t number)
{
	const uint64_t hash = hash_block(block);
	const uint32_t tag = (uint32_t)(hash >> 32);

	if (hash & share->sampled)
		return;
	for (uint64_t i = 0; i < PROBES; i++) {
		struct slot *slot = &share->slots[(hash + i) & (share->slot_count - 1)];

		if (slot->number && slot->tag != tag)
			continue;
		if (!slot->number)
			*slot = (struct slot){ tag, (uint32_t)number + 1 };
		return;
	}
}

static int learn_all(struct cs_share *share)
{
	uint64_t part;
	int r;

	posix_fadvise(share->old_fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	for (uint64_t at = 0; at < share->old_bytes; at += part) {
		part = share->old_bytes - at < WINDOW_BYTES ? share->old_bytes - at : WINDOW_BYTES;
		r = cs_pread_full(share->old_fd, share->window, part, at);
		if (r < 0)
			return r;
		for (uint64_t i = 0; i < part; i += BLOCK) {
			if (!is_zero(share->window + i))
				learn(share, share->window + i, (at + i) / BLOCK);
		}
	}
	return 0;
}

int cs_share_open(int old_fd, uint64_t bytes, struct cs_share **ret)
{
	cs_auto(cs_share_freep) struct cs_share *share = calloc(1, sizeof(*share));
	const uint64_t blocks = bytes / BLOCK;
	int r;

	if (!share)
		return -ENOMEM;
	if (blocks >= UINT32_MAX)
		return -EFBIG;
	share->old_fd = old_fd;
	share->old_bytes = blocks * BLOCK;
	share->slot_count = SLOTS_MIN;
	while (share->slot_count < 2 * blocks && share->slot_count < SLOTS_MAX)
		share->slot_count *= 2;
	while (blocks / (share->sampled + 1) > share->slot_count / 2)
		share->sampled = share->sampled * 2 + 1;
	share->slots = calloc(share->slot_count, sizeof(*share->slots));
	share->window = malloc(WINDOW_BYTES);
	if (!share->slots || !share->window)
		return -ENOMEM;
	r = learn_all(share);
	if (r < 0)
		return r;
	*ret = cs_steal(share);
	return 0;
}

/* Is the block at (at) of the old file this one? What cannot be read is not. */
static bool is_old(struct cs_share *share, uint64_t at, const unsigned char *block)
{
	if (at >= share->old_bytes)
		return false;
	if (at < share->window_at || at >= share->window_at + share->window_bytes) {
		uint64_t left = share->old_bytes - at;

		share->window_at = at;
		share->window_bytes = left < WINDOW_BYTES ? left : WINDOW_BYTES;
		if (cs_pread_full(share->old_fd, share->window, share->window_bytes, at) < 0)
			share->window_bytes = 0;
	}
	return share->window_bytes &&
	       !memcmp(share->window + (at - share->window_at), block, BLOCK);
}

/* Where the old file has (block). */
static bool find(struct cs_share *share, const unsigned char *block, uint64_t *ret)
{
	const uint64_t hash = hash_block(block);
	int tries = TRIES;

	if (hash & share->sampled)
		return false;
	for (uint64_t i = 0; i < PROBES && tries; i++) {
		const struct slot *slot = &share->slots[(hash + i) & (share->slot_count - 1)];
		uint64_t at = (slot->number - UINT64_C(1)) * BLOCK;

		if (!slot->number)
			return false;
		if (slot->tag != (uint32_t)(hash >> 32))
			continue;
		tries--;
		if (is_old(share, at, block)) {
			*ret = at;
			return true;
		}
	}
	return false;
}

/* ---- the new file ---- */

static int write_new(struct cs_share *share, int fd, const unsigned char *data, uint64_t bytes,
		     uint64_t offset)
{
	if (!bytes)
		return 0;
	share->count.new_bytes += bytes;
	return cs_pwrite_full(fd, data, bytes, offset);
}

/* What would have been cloned, by hand. */
static int copy_run(struct cs_share *share, int fd)
{
	uint64_t part;
	int r = 0;

	share->window_bytes = 0;
	for (uint64_t at = 0; at < share->run_bytes && r == 0; at += part) {
		part = share->run_bytes - at < WINDOW_BYTES ? share->run_bytes - at : WINDOW_BYTES;
		r = cs_pread_full(share->old_fd, share->window, part, share->run_from + at);
		if (r == 0)
			r = write_new(share, fd, share->window, part, share->run_to + at);
	}
	return r;
}

int cs_share_flush(struct cs_share *share, int fd)
{
	struct file_clone_range range = {
		.src_fd = share->old_fd,
		.src_offset = share->run_from,
		.src_length = share->run_bytes,
		.dest_offset = share->run_to,
	};
	int r = 0;

	if (!share->run_bytes)
		return 0;
	if (share->refused || ioctl(fd, FICLONERANGE, &range) < 0) {
		/* another file system, or one that cannot: it will not later either */
		share->refused = true;
		r = copy_run(share, fd);
	} else {
		share->count.shared_bytes += share->run_bytes;
		share->count.runs++;
	}
	share->run_bytes = 0;
	return r;
}

/* Whole blocks. At the end nothing is put off but a run that is worth a clone already. */
static int write_blocks(struct cs_share *share, int fd, const unsigned char *data, uint64_t bytes,
			uint64_t offset)
{
	uint64_t literal = 0, from = 0; /* what is not yet written begins at (literal) */
	int r = 0;

	for (uint64_t i = 0; i < bytes && r == 0; i += BLOCK) {
		if (share->run_bytes &&
		    is_old(share, share->run_from + share->run_bytes, data + i)) {
			share->run_bytes += BLOCK;
			literal = i + BLOCK;
			continue;
		}
		if (share->run_bytes && share->run_bytes < RUN_MIN) {
			/* begun in this call, or it would be longer: its blocks are at hand */
			literal = share->run_to - offset;
			share->run_bytes = 0;
		}
		r = cs_share_flush(share, fd);
		if (r < 0 || is_zero(data + i) || !find(share, data + i, &from))
			continue;
		r = write_new(share, fd, data + literal, i - literal, offset + literal);
		share->run_from = from;
		share->run_to = offset + i;
		share->run_bytes = BLOCK;
		literal = i + BLOCK;
	}
	if (r == 0 && share->run_bytes && share->run_bytes < RUN_MIN) {
		literal = share->run_to - offset;
		share->run_bytes = 0;
	}
	return r < 0 ? r : write_new(share, fd, data + literal, bytes - literal, offset + literal);
}

int cs_share_write(struct cs_share *share, int fd, const void *data_, uint64_t bytes,
		   uint64_t offset)
{
	const unsigned char *data = data_;
	uint64_t head = cs_align_up(offset, BLOCK) - offset, body;
	int r = 0;

	if (head > bytes)
		head = bytes;
	body = cs_align_down(bytes - head, BLOCK);
	if (share->refused)
		return write_new(share, fd, data, bytes, offset);
	if (head || share->run_to + share->run_bytes != offset)
		r = cs_share_flush(share, fd);
	if (r == 0)
		r = write_new(share, fd, data, head, offset);
	if (r == 0 && body)
		r = write_blocks(share, fd, data + head, body, offset + head);
	if (r < 0 || head + body == bytes)
		return r;
	r = cs_share_flush(share, fd);
	return r < 0 ? r
		     : write_new(share, fd, data + head + body, bytes - head - body,
				 offset + head + body);
}

static int copy_range(struct cs_share *share, int from_fd, uint64_t at, uint64_t end, int fd)
{
	cs_auto(cs_mem_freep) unsigned char *buf = malloc(COPY_BYTES);
	uint64_t part;
	int r = buf ? 0 : -ENOMEM;

	for (; at < end && r == 0; at += part) {
		part = end - at < COPY_BYTES ? end - at : COPY_BYTES;
		r = cs_pread_full(from_fd, buf, part, at);
		if (r == 0)
			r = cs_share_write(share, fd, buf, part, at);
	}
	return r;
}

int cs_share_copy(struct cs_share *share, int from_fd, uint64_t bytes, int fd)
{
	off_t data, hole;
	int r = 0;

	for (uint64_t at = 0; at < bytes && r == 0; at = (uint64_t)hole) {
		data = lseek(from_fd, (off_t)at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break; /* a hole to the end */
		hole = data < 0 ? -1 : lseek(from_fd, data, SEEK_HOLE);
		if (hole < 0 || (uint64_t)hole > bytes)
			hole = (off_t)bytes;
		r = copy_range(share, from_fd, data < 0 ? at : (uint64_t)data, (uint64_t)hole, fd);
	}
	if (r == 0)
		r = cs_share_flush(share, fd);
	return r == 0 && ftruncate(fd, (off_t)bytes) < 0 ? -errno : r;
}

void cs_share_count(const struct cs_share *share, struct cs_share_count *ret)
{
	*ret = share->count;
}

struct cs_share *cs_share_free(struct cs_share *share)
{
	if (!share)
		return NULL;
	free(share->slots);
	free(share->window);
	free(share);
	return NULL;
}

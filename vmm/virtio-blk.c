/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/virtio-devices.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>

#include "vmm/disk-io.h"

#define QUEUE_SIZE   128
#define SECTOR_SHIFT 9
#define SECTOR_BYTES 512u
#define HEAD_BYTES   sizeof(struct virtio_blk_outhdr)
#define RANGE_MAX    (1u << 22) /* sectors of one discard or write-zeroes: 2 GiB */

#define BIT(feature) (UINT64_C(1) << (feature))
#define READ_FEATURES                                                                              \
	(BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_TOPOLOGY) |     \
	 BIT(VIRTIO_BLK_F_FLUSH))
#define WRITE_FEATURES (BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES))

struct blk {
	struct cs_virtio dev;
	struct virtio_blk_config config;
	struct cs_disk_io *io;
	uint64_t sectors;
	bool read_only;
	bool lasting; /* the driver knows no flush: what is written must last (5.2.6.2) */
	bool waiting; /* a request stays on the queue until one under way ends */
};

/* ---- answers */

static unsigned char status_of(enum cs_disk_work work, int result)
{
	if (result == 0)
		return VIRTIO_BLK_S_OK;
	return result == -EOPNOTSUPP && work == CS_DISK_PUNCH ? VIRTIO_BLK_S_UNSUPP
							      : VIRTIO_BLK_S_IOERR;
}

/* Answer at once. The length counts the whole writable part, as QEMU's does: the status is its last
 * byte (virtio 1.2, 5.2.6). */
static int64_t answer(const struct cs_chain *chain, unsigned char status)
{
	cs_chain_write(chain, chain->writable_bytes - 1, &status, sizeof(status));
	return (int64_t)chain->writable_bytes;
}

static void done(void *arg, const struct cs_disk_job *job, int result)
{
	struct blk *blk = arg;

	*(volatile unsigned char *)job->status = status_of(job->work, result);
	cs_virtio_complete(&blk->dev, 0, job->tag, job->used);
}

static void submit(struct blk *blk)
{
	if (cs_disk_io_submit(blk->io) == -EAGAIN)
		cs_virtio_again(&blk->dev, 0);
}

static void turn(void *arg)
{
	struct blk *blk = arg;

	submit(blk);
	cs_virtio_notify(&blk->dev, 0);
	if (blk->waiting)
		cs_virtio_again(&blk->dev, 0);
	blk->waiting = false;
}

/* ---- what the driver asks */

static int64_t begin(struct blk *blk, const struct cs_chain *chain, struct cs_disk_job *job)
{
	const struct iovec *last = &chain->iov[chain->readable + chain->writable - 1];
	struct iovec data[CS_CHAIN_MAX];
	int r;

	job->iov = data;
	if (job->work == CS_DISK_READ)
		job->pieces = cs_iov_slice(chain->iov + chain->readable, chain->writable, 0,
					   job->bytes, data);
	else if (job->work == CS_DISK_WRITE)
		job->pieces =
			cs_iov_slice(chain->iov, chain->readable, HEAD_BYTES, job->bytes, data);
	job->lasting = blk->lasting;
	job->tag = chain->head;
	job->status = (unsigned char *)last->iov_base + last->iov_len - 1;
	job->used = chain->writable_bytes;
	r = cs_disk_io_begin(blk->io, job);
	return r == -EINPROGRESS ? r : answer(chain, status_of(job->work, r));
}

/* (bytes) from (sector) on are inside the disk. Nothing is added to what the guest chose. */
static bool inside(const struct blk *blk, uint64_t sector, uint64_t bytes)
{
	return bytes % SECTOR_BYTES == 0 && sector <= blk->sectors &&
	       bytes / SECTOR_BYTES <= blk->sectors - sector;
}

static int64_t at(struct blk *blk, const struct cs_chain *chain, uint64_t sector,
		  struct cs_disk_job *job)
{
	if (!inside(blk, sector, job->bytes) || (job->work != CS_DISK_READ && blk->read_only))
		return answer(chain, VIRTIO_BLK_S_IOERR);
	if (job->bytes == 0)
		return answer(chain, VIRTIO_BLK_S_OK);
	job->offset = sector << SECTOR_SHIFT;
	return begin(blk, chain, job);
}

/* Discard and write zeroes: one range a request, which is all that is offered. */
static int64_t clear(struct blk *blk, const struct cs_chain *chain, bool discard)
{
	struct virtio_blk_discard_write_zeroes range;
	struct cs_disk_job job = { 0 };
	uint32_t flags, sectors;

	if (chain->readable_bytes != HEAD_BYTES + sizeof(range) ||
	    cs_chain_read(chain, HEAD_BYTES, &range, sizeof(range)) != sizeof(range))
		return answer(chain, VIRTIO_BLK_S_IOERR);
	flags = le32toh(range.flags);
	if (flags & ~(discard ? 0u : (uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
		return answer(chain, VIRTIO_BLK_S_UNSUPP);
	sectors = le32toh(range.num_sectors);
	if (sectors > RANGE_MAX)
		return answer(chain, VIRTIO_BLK_S_IOERR);

	job.bytes = (uint64_t)sectors * SECTOR_BYTES;
	job.work = discard ? CS_DISK_PUNCH : flags ? CS_DISK_ZERO_HOLE : CS_DISK_ZERO_RANGE;
	return at(blk, chain, le64toh(range.sector), &job);
}

static int64_t get_id(const struct cs_chain *chain)
{
	static const char id[VIRTIO_BLK_ID_BYTES] = "clearstore";
	const uint64_t room = chain->writable_bytes - 1;

	cs_chain_write(chain, 0, id, room < sizeof(id) ? (size_t)room : sizeof(id));
	return answer(chain, VIRTIO_BLK_S_OK);
}

static int64_t take(struct cs_virtio *dev, const struct cs_chain *chain)
{
	struct blk *blk = (struct blk *)dev;
	struct virtio_blk_outhdr head;
	struct cs_disk_job job = { 0 };

	if (chain->writable_bytes == 0)
		return 0; /* not even room for a status: back it goes */
	if (cs_disk_io_full(blk->io)) {
		blk->waiting = true;
		return -EAGAIN;
	}
	if (cs_chain_read(chain, 0, &head, sizeof(head)) != sizeof(head))
		return answer(chain, VIRTIO_BLK_S_IOERR);

	switch (le32toh(head.type)) {
	case VIRTIO_BLK_T_IN:
		job.work = CS_DISK_READ;
		job.bytes = chain->writable_bytes - 1;
		return at(blk, chain, le64toh(head.sector), &job);
	case VIRTIO_BLK_T_OUT:
		job.work = CS_DISK_WRITE;
		job.bytes = chain->readable_bytes - HEAD_BYTES;
		return at(blk, chain, le64toh(head.sector), &job);
	case VIRTIO_BLK_T_FLUSH:
		job.work = CS_DISK_FLUSH;
		return begin(blk, chain, &job);
	case VIRTIO_BLK_T_DISCARD:
		return clear(blk, chain, true);
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return clear(blk, chain, false);
	case VIRTIO_BLK_T_GET_ID:
		return get_id(chain);
	}
	return answer(chain, VIRTIO_BLK_S_UNSUPP);
}

/* ---- the device */

static void config_read(struct cs_virtio *dev, uint64_t offset, void *buf, size_t bytes)
{
	const struct blk *blk = (const struct blk *)dev;

	cs_virtio_config(&blk->config, sizeof(blk->config), offset, buf, bytes);
}

static void start(struct cs_virtio *dev)
{
	struct blk *blk = (struct blk *)dev;

	blk->lasting = !(dev->features & BIT(VIRTIO_BLK_F_FLUSH));
}

static void kick(struct cs_virtio *dev, unsigned queue)
{
	cs_virtio_serve(dev, queue, take);
	submit((struct blk *)dev);
}

/* The next driver may use this one's buffers for something else. */
static void reset(struct cs_virtio *dev)
{
	struct blk *blk = (struct blk *)dev;

	cs_disk_io_drain(blk->io);
	blk->waiting = false;
}

static bool busy(const struct cs_virtio *dev)
{
	return cs_disk_io_busy(((const struct blk *)dev)->io);
}

static bool waits(const struct cs_virtio *dev)
{
	return cs_disk_io_waits(((const struct blk *)dev)->io);
}

static void settle(struct cs_virtio *dev)
{
	cs_disk_io_settle(((struct blk *)dev)->io);
}

/* Nothing is under way. What the guest believes of its disk must be so. */
static void state(struct cs_virtio *dev, struct cs_stream *stream)
{
	struct blk *blk = (struct blk *)dev;
	uint64_t sectors = blk->sectors;
	bool read_only = blk->read_only;

	cs_stream_field(stream, sectors);
	cs_stream_flag(stream, "read-only", &read_only);
	if (sectors != blk->sectors || read_only != blk->read_only)
		cs_stream_refuse(
			stream, ESTALE, "saved with a disk of %llu sectors%s, this one has %llu%s",
			(unsigned long long)sectors, read_only ? ", read-only" : "",
			(unsigned long long)blk->sectors, blk->read_only ? ", read-only" : "");
}

static void blk_free(struct cs_virtio *dev)
{
	struct blk *blk = (struct blk *)dev;

	cs_disk_io_free(blk->io);
	free(blk);
}

#define BLK_OPS(offers)                                                                            \
	{                                                                                          \
		.name = "blk", .id = VIRTIO_ID_BLOCK, .queues = 1, .queue_size = QUEUE_SIZE,       \
		.features = (offers), .config_read = config_read, .start = start, .kick = kick,    \
		.reset = reset, .busy = busy, .waits = waits, .settle = settle, .state = state,    \
		.free = blk_free,                                                                  \
	}

static const struct cs_virtio_ops writable_ops = BLK_OPS(READ_FEATURES | WRITE_FEATURES);
static const struct cs_virtio_ops read_only_ops = BLK_OPS(READ_FEATURES | BIT(VIRTIO_BLK_F_RO));

/* Blocks of 512 bytes, which any image may count on; 4 KiB is what the host likes. */
static struct virtio_blk_config configuration(uint64_t sectors)
{
	return (struct virtio_blk_config){
		.capacity = htole64(sectors),
		.seg_max = htole32(QUEUE_SIZE - 2), /* head and status take one each */
		.blk_size = htole32(SECTOR_BYTES),
		.physical_block_exp = 3,
		.min_io_size = htole16(8),
		.max_discard_sectors = htole32(RANGE_MAX),
		.max_discard_seg = htole32(1),
		.discard_sector_alignment = htole32(8),
		.max_write_zeroes_sectors = htole32(RANGE_MAX),
		.max_write_zeroes_seg = htole32(1),
		.write_zeroes_may_unmap = 1,
	};
}

int cs_virtio_blk_create(const struct cs_disk *disk, struct cs_loop *loop, struct cs_virtio **ret,
			 struct cs_err *err)
{
	cs_auto(cs_mem_freep) struct blk *blk = calloc(1, sizeof(*blk));
	struct cs_disk_io_spec spec = { .fd = disk->fd,
					.under_fd = disk->under_fd,
					.loop = loop,
					.done = done,
					.turn = turn,
					.arg = blk };
	int r;

	if (!blk)
		return cs_fail_errno(err, ENOMEM, "virtio blk");
	if (disk->bytes < SECTOR_BYTES || disk->bytes > INT64_MAX)
		return cs_fail(err, EINVAL, "virtio blk: no disk is that small or that large");
	blk->dev.ops = disk->read_only ? &read_only_ops : &writable_ops;
	blk->sectors = disk->bytes / SECTOR_BYTES;
	blk->read_only = disk->read_only;
	blk->config = configuration(blk->sectors);
	r = cs_disk_io_create(&spec, &blk->io, err);
	if (r < 0)
		return r;
	*ret = &cs_steal(blk)->dev;
	return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/virtio-devices.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pmem.h>
#include <stdlib.h>

#define QUEUE_SIZE 64

struct pmem {
	struct cs_virtio dev;
	struct virtio_pmem_config config;
};

static void config_read(struct cs_virtio *dev, uint64_t offset, void *buf, size_t bytes)
{
	const struct pmem *pmem = (const struct pmem *)dev;

	cs_virtio_config(&pmem->config, sizeof(pmem->config), offset, buf, bytes);
}

/* A flush has nothing to do: nobody can have written. Anything else is answered with the standard's
 * only failure, -1 (virtio 1.2, 5.19.7). */
static int64_t answer(struct cs_virtio *dev, const struct cs_chain *chain)
{
	struct virtio_pmem_resp resp = { .ret = htole32(UINT32_MAX) };
	struct virtio_pmem_req req;

	if (cs_chain_read(chain, 0, &req, sizeof(req)) == sizeof(req) &&
	    le32toh(req.type) == VIRTIO_PMEM_REQ_TYPE_FLUSH)
		resp.ret = 0;
	return (int64_t)cs_chain_write(chain, 0, &resp, sizeof(resp));
}

static void kick(struct cs_virtio *dev, unsigned queue)
{
	cs_virtio_serve(dev, queue, answer);
}

static void pmem_free(struct cs_virtio *dev)
{
	free(dev);
}

/* F_SHMEM_REGION is not offered: start and size are in the configuration, as Linux 5.x wants. */
static const struct cs_virtio_ops ops = {
	.name = "pmem",
	.id = VIRTIO_ID_PMEM,
	.queues = 1,
	.queue_size = QUEUE_SIZE,
	.config_read = config_read,
	.kick = kick,
	.free = pmem_free,
};

int cs_virtio_pmem_create(uint64_t gpa, uint64_t bytes, struct cs_virtio **ret, struct cs_err *err)
{
	struct pmem *pmem;

	if (gpa % CS_ROOT_GRAIN || bytes % CS_ROOT_GRAIN || bytes == 0)
		return cs_fail(err, EINVAL,
			       "virtio pmem: start and size must be multiples of 2 MiB");
	pmem = calloc(1, sizeof(*pmem));
	if (!pmem)
		return cs_fail_errno(err, ENOMEM, "virtio pmem");
	pmem->dev.ops = &ops;
	pmem->config.start = htole64(gpa);
	pmem->config.size = htole64(bytes);
	*ret = &pmem->dev;
	return 0;
}

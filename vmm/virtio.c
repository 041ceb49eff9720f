/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/virtio.h"

#include <errno.h>
#include <string.h>

void cs_virtio_notify(struct cs_virtio *dev, unsigned queue)
{
	if (dev->running && cs_virtq_wants_interrupt(&dev->queue[queue], dev->mem))
		dev->interrupt(dev->interrupt_arg, false);
}

void cs_virtio_break(struct cs_virtio *dev)
{
	if (dev->running)
		dev->broken(dev->interrupt_arg);
}

void cs_virtio_again(struct cs_virtio *dev, unsigned queue)
{
	if (dev->running)
		dev->again(dev->interrupt_arg, queue);
}

void cs_virtio_complete(struct cs_virtio *dev, unsigned queue, uint16_t head, uint64_t written)
{
	const uint32_t used = written > UINT32_MAX ? UINT32_MAX : (uint32_t)written;

	if (!dev->running)
		return;
	if (cs_virtq_push(&dev->queue[queue], dev->mem, head, used) < 0)
		cs_virtio_break(dev);
}

void cs_virtio_serve(struct cs_virtio *dev, unsigned queue, cs_virtio_serve_fn fn)
{
	struct cs_virtq *q = &dev->queue[queue];
	unsigned left = q->size;
	struct cs_chain chain;
	int64_t written;

	/* The ring is ours until it is empty: no exit for each request that comes meanwhile. */
	cs_virtq_enable_kick(q, dev->mem, false);
	for (; dev->running && left; left--) {
		int r = cs_virtq_pop(q, dev->mem, &chain);

		if (r < 0) {
			cs_virtio_break(dev);
			return;
		}
		if (r == 0 && !cs_virtq_enable_kick(q, dev->mem, true))
			break;
		if (r == 0)
			continue;

		written = fn(dev, &chain);
		if (written == -EAGAIN) {
			cs_virtq_unpop(q);
			break;
		}
		if (written >= 0)
			cs_virtio_complete(dev, queue, chain.head, (uint64_t)written);
	}
	cs_virtio_notify(dev, queue);
	if (left == 0 && cs_virtq_enable_kick(q, dev->mem, true))
		cs_virtio_again(dev, queue);
}

void cs_virtio_config(const void *config, size_t config_bytes, uint64_t offset, void *buf,
		      size_t bytes)
{
	memset(buf, 0, bytes);
	if (offset >= config_bytes)
		return;
	if (bytes > config_bytes - offset)
		bytes = config_bytes - (size_t)offset;
	memcpy(buf, (const char *)config + offset, bytes);
}

struct cs_virtio *cs_virtio_free(struct cs_virtio *dev)
{
	if (dev)
		dev->ops->free(dev);
	return NULL;
}

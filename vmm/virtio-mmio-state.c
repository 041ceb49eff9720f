/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A virtio device that is saved and loaded: the registers, the queues, what waits. */
#include "vmm/virtio-mmio-private.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <unistd.h>

#define STATE_VERSION 2u

bool cs_virtio_mmio_busy(const struct cs_virtio_mmio *mmio)
{
	return mmio->started && mmio->dev->ops->busy && mmio->dev->ops->busy(mmio->dev);
}

bool cs_virtio_mmio_waits(const struct cs_virtio_mmio *mmio)
{
	return mmio->started && mmio->dev->ops->waits && mmio->dev->ops->waits(mmio->dev);
}

void cs_virtio_mmio_settle(struct cs_virtio_mmio *mmio)
{
	struct cs_virtio *dev = mmio->dev;
	uint64_t count;

	if (mmio->started && dev->ops->settle)
		dev->ops->settle(dev);
	/* A bell that rang and was not heard yet is part of the state; for this machine, which goes
	 * on, it rings again. */
	mmio->waiting = 0;
	for (unsigned i = 0; i < dev->ops->queues && dev->running; i++) {
		if (read(mmio->bell[i].fd, &count, sizeof(count)) != sizeof(count))
			continue;
		cs_virtio_mmio_ring(mmio->bell[i].fd);
		mmio->waiting |= 1u << i;
	}
}

void cs_virtio_mmio_part(struct cs_virtio_mmio *mmio, cs_virtio_touch_fn touch, void *arg)
{
	/* The descriptor is the same one that the running machine has. */
	mmio->irq_fd = -1;
	if (mmio->dev->running && mmio->dev->ops->part)
		mmio->dev->ops->part(mmio->dev, touch, arg);
}

static void describe_queue(struct cs_virtio_mmio *mmio, unsigned index, struct cs_stream *stream)
{
	struct cs_virtq *q = &mmio->dev->queue[index];

	cs_stream_field(stream, q->size);
	cs_stream_flag(stream, "queue ready", &q->ready);
	cs_stream_flag(stream, "queue broken", &q->broken);
	cs_stream_field(stream, q->desc);
	cs_stream_field(stream, q->driver);
	cs_stream_field(stream, q->device);
	cs_stream_field(stream, q->next_avail);
	cs_stream_field(stream, q->next_used);
	cs_stream_field(stream, q->signalled);
	cs_stream_require(stream,
			  q->size <= mmio->dev->ops->queue_size && !(q->size & (q->size - 1)),
			  "queue size");
	cs_stream_require(stream, !q->ready || cs_virtq_usable(q, mmio->dev->mem),
			  "queue addresses");
}

/* What a driver could have brought about, and nothing else. */
static void check(const struct cs_virtio_mmio *mmio, bool started, bool running,
		  struct cs_stream *stream)
{
	const uint32_t known = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			       VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK |
			       VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
	const uint32_t working = VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
	const uint32_t stopped = VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
	const uint32_t status = mmio->status;

	cs_stream_require(stream, !(status & ~known), "status");
	cs_stream_require(
		stream, !(mmio->isr & ~(uint32_t)(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG)),
		"interrupt status");
	cs_stream_require(stream,
			  !(status & VIRTIO_CONFIG_S_FEATURES_OK) ||
				  cs_virtio_mmio_accepts(mmio, mmio->dev->features),
			  "features");
	cs_stream_require(stream, !started || (status & working) == working, "status");
	cs_stream_require(stream, !running || (started && !(status & stopped)), "status");
	cs_stream_require(stream, mmio->waiting >> mmio->dev->ops->queues == 0, "waiting queues");
}

/* Have the device go on where the fields say it was. */
static void go_on(struct cs_virtio_mmio *mmio, bool running)
{
	struct cs_virtio *dev = mmio->dev;

	if (running)
		cs_virtio_mmio_start(mmio);
	else if (dev->ops->start)
		dev->ops->start(dev); /* it is broken: its next call is reset() */
	for (unsigned i = 0; i < dev->ops->queues; i++) {
		if (mmio->waiting >> i & 1)
			cs_virtio_again(dev, i);
	}
	mmio->waiting = 0;
}

void cs_virtio_mmio_state(struct cs_virtio_mmio *mmio, struct cs_stream *stream)
{
	struct cs_virtio *dev = mmio->dev;
	bool started = mmio->started, running = dev->running;

	cs_stream_section(stream, dev->ops->name, STATE_VERSION);
	cs_stream_field(stream, mmio->status);
	cs_stream_field(stream, mmio->isr);
	cs_stream_field(stream, mmio->generation);
	cs_stream_field(stream, mmio->features_sel);
	cs_stream_field(stream, mmio->driver_features_sel);
	cs_stream_field(stream, mmio->queue_sel);
	cs_stream_field(stream, mmio->driver_features);
	cs_stream_field(stream, dev->features);
	cs_stream_field(stream, mmio->waiting);
	cs_stream_flag(stream, "started", &started);
	cs_stream_flag(stream, "running", &running);
	for (unsigned i = 0; i < dev->ops->queues; i++)
		describe_queue(mmio, i, stream);
	if (!cs_stream_saves(stream)) {
		check(mmio, started, running, stream);
		/* Half of a state is none: nothing of it may run. */
		mmio->started = started && cs_stream_good(stream);
		if (mmio->started)
			go_on(mmio, running);
	}
	if (dev->ops->state)
		dev->ops->state(dev, stream);
	if (!cs_stream_saves(stream) && cs_stream_good(stream) && mmio->isr)
		cs_virtio_mmio_ring(mmio->irq_fd);
}

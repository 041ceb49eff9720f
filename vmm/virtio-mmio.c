/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/virtio-mmio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/virtio-mmio-private.h"

_Static_assert(CS_VIRTIO_MMIO_NOTIFY == VIRTIO_MMIO_QUEUE_NOTIFY, "virtio 1.2, 4.2.2");

#define MAGIC   0x74726976u /* "virt" */
#define VERSION 2u
#define VENDOR  0x52545343u /* "CSTR" */

/* An eventfd that is full cannot take more, and is readable, which is all that matters. */
void cs_virtio_mmio_ring(int fd)
{
	const uint64_t one = 1;
	ssize_t n = write(fd, &one, sizeof(one));

	(void)n;
}

static void unring(int fd)
{
	uint64_t count;
	ssize_t n = read(fd, &count, sizeof(count));

	(void)n;
}

/* ---- what the device asks of its transport */

static void interrupt(void *arg, bool config)
{
	struct cs_virtio_mmio *mmio = arg;

	if (config)
		mmio->generation++;
	mmio->isr |= config ? VIRTIO_MMIO_INT_CONFIG : VIRTIO_MMIO_INT_VRING;
	cs_virtio_mmio_ring(mmio->irq_fd);
}

/* No more kicks; what is being served when this is called finds (running) false. */
static void quiesce(struct cs_virtio_mmio *mmio)
{
	mmio->dev->running = false;
	for (unsigned i = 0; i < mmio->dev->ops->queues; i++) {
		if (!mmio->bell[i].watch)
			continue; /* half-built */
		cs_watch_set(mmio->bell[i].watch, 0);
		unring(mmio->bell[i].fd);
	}
}

static void broken(void *arg)
{
	struct cs_virtio_mmio *mmio = arg;

	quiesce(mmio);
	mmio->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	interrupt(mmio, true); /* virtio 1.2, 2.1.2: the driver is told when it had set DRIVER_OK */
}

static void again(void *arg, unsigned queue)
{
	struct cs_virtio_mmio *mmio = arg;

	cs_virtio_mmio_ring(mmio->bell[queue].fd);
}

static void on_bell(void *arg, uint32_t events)
{
	struct cs_virtio_bell *bell = arg;
	struct cs_virtio *dev = bell->mmio->dev;

	unring(bell->fd);
	if (dev->running && dev->queue[bell->queue].ready)
		dev->ops->kick(dev, bell->queue);
}

/* ---- life of the device */

void cs_virtio_mmio_start(struct cs_virtio_mmio *mmio)
{
	struct cs_virtio *dev = mmio->dev;

	for (unsigned i = 0; i < dev->ops->queues; i++) {
		dev->queue[i].event_idx = dev->features >> VIRTIO_RING_F_EVENT_IDX & 1;
		dev->queue[i].indirect = dev->features >> VIRTIO_RING_F_INDIRECT_DESC & 1;
	}
	dev->running = true;
	mmio->started = true;
	if (dev->ops->start)
		dev->ops->start(dev);
	for (unsigned i = 0; i < dev->ops->queues && dev->running; i++) {
		if (cs_watch_set(mmio->bell[i].watch, EPOLLIN) < 0)
			cs_virtio_break(dev);
	}
}

static void start(struct cs_virtio_mmio *mmio)
{
	cs_virtio_mmio_start(mmio);
	for (unsigned i = 0; i < mmio->dev->ops->queues && mmio->dev->running; i++)
		cs_virtio_mmio_ring(mmio->bell[i].fd);
}

/* The driver's hold on the device ends: its queues first, so that nothing is answered on them. */
static void stop(struct cs_virtio_mmio *mmio)
{
	struct cs_virtio *dev = mmio->dev;

	quiesce(mmio);
	memset(dev->queue, 0, sizeof(dev->queue));
	if (mmio->started && dev->ops->reset)
		dev->ops->reset(dev);
	mmio->started = false;
}

static void reset(struct cs_virtio_mmio *mmio)
{
	stop(mmio);
	mmio->dev->features = 0;
	mmio->status = 0;
	mmio->isr = 0;
	mmio->driver_features = 0;
	mmio->features_sel = mmio->driver_features_sel = mmio->queue_sel = 0;
}

static uint64_t offered(const struct cs_virtio_mmio *mmio)
{
	return mmio->dev->ops->features | (UINT64_C(1) << VIRTIO_F_VERSION_1) |
	       (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC) |
	       (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX);
}

/* Version 2 devices are no legacy devices: VERSION_1 is a must (virtio 1.2, 6.2). */
bool cs_virtio_mmio_accepts(const struct cs_virtio_mmio *mmio, uint64_t features)
{
	return !(features & ~offered(mmio)) && (features >> VIRTIO_F_VERSION_1 & 1);
}

/* Status as virtio 1.2, 2.1 and 3.1.1 have it: bits are only added, each on the shoulders of the
 * one before; a bit that may not be set yet stays clear, where the driver reads it back. */
static void write_status(struct cs_virtio_mmio *mmio, uint32_t value)
{
	const uint32_t known = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			       VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK |
			       VIRTIO_CONFIG_S_FAILED;
	uint32_t old = mmio->status, added;

	if (value == 0) {
		reset(mmio);
		return;
	}
	if (old & ~value & known)
		return;
	added = value & known & ~old;
	if (old & VIRTIO_CONFIG_S_NEEDS_RESET)
		added &= VIRTIO_CONFIG_S_FAILED;
	if (!((old | added) & VIRTIO_CONFIG_S_ACKNOWLEDGE))
		added &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER;
	if (!((old | added) & VIRTIO_CONFIG_S_DRIVER) ||
	    !cs_virtio_mmio_accepts(mmio, mmio->driver_features))
		added &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
	if (!((old | added) & VIRTIO_CONFIG_S_FEATURES_OK) ||
	    ((old | added) & VIRTIO_CONFIG_S_FAILED))
		added &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK;

	mmio->status |= added;
	if (added & VIRTIO_CONFIG_S_FEATURES_OK)
		mmio->dev->features = mmio->driver_features;
	if (added & VIRTIO_CONFIG_S_FAILED)
		stop(mmio);
	if (added & VIRTIO_CONFIG_S_DRIVER_OK)
		start(mmio);
}

/* ---- queues */

/* The selected queue; NULL: there is none of that number. */
static struct cs_virtq *selected(struct cs_virtio_mmio *mmio)
{
	return mmio->queue_sel < mmio->dev->ops->queues ? &mmio->dev->queue[mmio->queue_sel] : NULL;
}

static void write_ready(struct cs_virtio_mmio *mmio, struct cs_virtq *q, bool ready)
{
	if (ready && cs_virtq_usable(q, mmio->dev->mem)) {
		q->next_avail = q->next_used = q->signalled = 0;
		q->ready = true;
		return;
	}
	if (!ready && q->ready && mmio->started)
		stop(mmio); /* see the header; forgets all queues, this one too */
	else if (!ready)
		memset(q, 0, sizeof(*q));
}

static void set_half(uint64_t *address, bool high, uint32_t value)
{
	if (high)
		*address = (*address & UINT32_MAX) | (uint64_t)value << 32;
	else
		*address = (*address & ~(uint64_t)UINT32_MAX) | value;
}

static void write_queue(struct cs_virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
	struct cs_virtq *q = selected(mmio);
	const bool high = offset & 4;

	if (!q)
		return;
	if (offset == VIRTIO_MMIO_QUEUE_READY && value <= 1 && q->ready != value &&
	    (value == 0 || !(mmio->status & VIRTIO_CONFIG_S_DRIVER_OK))) {
		write_ready(mmio, q, value);
		return;
	}
	/* A queue that is live, or of a device that is, keeps its rings. */
	if (q->ready || (mmio->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return;

	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		if (value && value <= mmio->dev->ops->queue_size && !(value & (value - 1)))
			q->size = (uint16_t)value;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_half(&q->desc, high, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_half(&q->driver, high, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_half(&q->device, high, value);
		break;
	}
}

/* ---- registers */

static uint32_t read_register(struct cs_virtio_mmio *mmio, uint64_t offset)
{
	const struct cs_virtq *q = selected(mmio);

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return mmio->dev->ops->id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		if (mmio->features_sel > 1)
			return 0;
		return (uint32_t)(offered(mmio) >> 32 * mmio->features_sel);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return q ? mmio->dev->ops->queue_size : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return q && q->ready;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return mmio->isr;
	case VIRTIO_MMIO_STATUS:
		return mmio->status;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return UINT32_MAX; /* no shared memory region (virtio 1.2, 4.2.2) */
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return mmio->generation;
	}
	return 0;
}

static void write_register(struct cs_virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		mmio->features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		mmio->driver_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		if (mmio->driver_features_sel <= 1) /* after FEATURES_OK nobody looks */
			set_half(&mmio->driver_features, mmio->driver_features_sel, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		mmio->queue_sel = value;
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		if (mmio->dev->running && value < mmio->dev->ops->queues)
			cs_virtio_mmio_ring(mmio->bell[value].fd);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		mmio->isr &= ~value;
		break;
	case VIRTIO_MMIO_STATUS:
		write_status(mmio, value);
		break;
	default:
		write_queue(mmio, offset, value);
	}
}

void cs_virtio_mmio_access(struct cs_virtio_mmio *mmio, uint64_t offset, void *data, unsigned bytes,
			   bool write)
{
	const struct cs_virtio_ops *ops = mmio->dev->ops;
	uint32_t value = 0;

	if (!write)
		memset(data, 0, bytes);
	if (offset >= VIRTIO_MMIO_CONFIG) {
		offset -= VIRTIO_MMIO_CONFIG;
		if (write && ops->config_write)
			ops->config_write(mmio->dev, offset, data, bytes);
		else if (!write && ops->config_read)
			ops->config_read(mmio->dev, offset, data, bytes);
		return;
	}
	/* Registers are 32 bits wide and are to be accessed so (virtio 1.2, 4.2.2.2). */
	if (bytes != sizeof(value) || offset % sizeof(value))
		return;
	if (write) {
		memcpy(&value, data, sizeof(value));
		write_register(mmio, offset, value);
		return;
	}
	value = read_register(mmio, offset);
	memcpy(data, &value, sizeof(value));
}

/* ---- making and unmaking */

static int hang_bell(struct cs_virtio_mmio *mmio, struct cs_loop *loop, unsigned queue,
		     struct cs_err *err)
{
	struct cs_virtio_bell *bell = &mmio->bell[queue];
	int r;

	bell->mmio = mmio;
	bell->queue = queue;
	bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (bell->fd < 0)
		return cs_fail_errno(err, errno, "virtio %s: eventfd", mmio->dev->ops->name);
	r = cs_loop_add(loop, bell->fd, 0, on_bell, bell, &bell->watch);
	if (r < 0)
		return cs_fail_errno(err, -r, "virtio %s: cannot watch a queue",
				     mmio->dev->ops->name);
	return 0;
}

int cs_virtio_mmio_create(const struct cs_virtio_mmio_spec *spec, struct cs_virtio_mmio **ret,
			  struct cs_err *err)
{
	cs_auto(cs_virtio_mmio_freep) struct cs_virtio_mmio *mmio = calloc(1, sizeof(*mmio));
	struct cs_virtio *dev = spec->device;
	int r;

	if (!mmio) {
		r = cs_fail_errno(err, ENOMEM, "virtio %s", dev->ops->name);
		cs_virtio_free(dev);
		return r;
	}
	for (unsigned i = 0; i < CS_VIRTIO_QUEUES; i++)
		mmio->bell[i].fd = -1;
	mmio->irq_fd = spec->irq_fd;
	mmio->dev = dev;
	for (unsigned i = 0; i < dev->ops->queues; i++) {
		r = hang_bell(mmio, spec->loop, i, err);
		if (r < 0)
			return r;
	}
	dev->mem = spec->mem;
	dev->loop = spec->loop;
	dev->interrupt = interrupt;
	dev->broken = broken;
	dev->again = again;
	dev->interrupt_arg = mmio;
	*ret = cs_steal(mmio);
	return 0;
}

int cs_virtio_mmio_notify_fd(const struct cs_virtio_mmio *mmio, unsigned queue)
{
	return mmio->bell[queue].fd;
}

unsigned cs_virtio_mmio_queues(const struct cs_virtio_mmio *mmio)
{
	return mmio->dev->ops->queues;
}

uint32_t cs_virtio_mmio_id(const struct cs_virtio_mmio *mmio)
{
	return mmio->dev->ops->id;
}

const char *cs_virtio_mmio_name(const struct cs_virtio_mmio *mmio)
{
	return mmio->dev->ops->name;
}

struct cs_virtio_mmio *cs_virtio_mmio_free(struct cs_virtio_mmio *mmio)
{
	if (!mmio)
		return NULL;
	if (mmio->dev)
		stop(mmio);
	mmio->dev = cs_virtio_free(mmio->dev);
	for (unsigned i = 0; i < CS_VIRTIO_QUEUES; i++) {
		cs_watch_free(mmio->bell[i].watch);
		cs_fd_closep(&mmio->bell[i].fd);
	}
	free(mmio);
	return NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/virtio-devices.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#define QUEUE_SIZE    8
#define REQUEST_BYTES 4096u

/* A guest gets at most BURST bytes at once and BURST each PERIOD_MS after: some 3 MiB/s, far over
 * what a kernel asks for seeding, and under 2 % of a host core. */
#define BURST     65536u
#define PERIOD_MS 20u

struct rng {
	struct cs_virtio dev;
	uint32_t budget;       /* bytes left */
	bool starved;          /* a request waits for the next budget */
	uint64_t filled_ms;    /* when the budget was last full, CLOCK_MONOTONIC */
	struct cs_timer *more; /* made when a guest first runs out; NULL until then */
};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

/* Filled by the clock, so that only a guest that wants more than its share costs a timer. */
static void refill(struct rng *rng)
{
	const uint64_t now = now_ms();

	if (now - rng->filled_ms < PERIOD_MS)
		return;
	rng->filled_ms = now;
	rng->budget = BURST;
}

static int64_t answer(struct cs_virtio *dev, const struct cs_chain *chain)
{
	struct rng *rng = (struct rng *)dev;
	unsigned char bytes[REQUEST_BYTES];
	size_t want = sizeof(bytes);
	ssize_t got;

	if (chain->writable_bytes == 0)
		return 0;
	refill(rng);
	if (rng->budget == 0) {
		rng->starved = true;
		return -EAGAIN;
	}
	if (want > chain->writable_bytes)
		want = (size_t)chain->writable_bytes;
	if (want > rng->budget)
		want = rng->budget;
	/* May be short after a signal (over 256 bytes), and the device may answer short. */
	got = getrandom(bytes, want, GRND_NONBLOCK);
	if (got <= 0) {
		rng->starved = true; /* a host without entropy yet: ask again later */
		return -EAGAIN;
	}
	rng->budget -= (uint32_t)got;
	return (int64_t)cs_chain_write(chain, 0, bytes, (size_t)got);
}

static void on_more(void *arg, uint32_t events)
{
	struct rng *rng = arg;

	cs_virtio_again(&rng->dev, 0);
}

static void kick(struct cs_virtio *dev, unsigned queue)
{
	struct rng *rng = (struct rng *)dev;

	rng->starved = false;
	cs_virtio_serve(dev, queue, answer);
	if (!rng->starved || !dev->running)
		return; /* the timer stays disarmed: a quiet guest wakes nobody */
	/* Without a timer the rate is the loop's, shared with the other devices. */
	if (!rng->more && cs_timer_create(dev->loop, on_more, rng, &rng->more) < 0)
		cs_virtio_again(dev, queue);
	else
		cs_timer_set(rng->more, PERIOD_MS);
}

static void reset(struct cs_virtio *dev)
{
	struct rng *rng = (struct rng *)dev;

	if (rng->more)
		cs_timer_set(rng->more, 0);
}

/* A new machine has a budget of its own, so a request that waits is served at once. */
static void state(struct cs_virtio *dev, struct cs_stream *stream)
{
	bool starved = ((struct rng *)dev)->starved;

	cs_stream_flag(stream, "starved", &starved);
	if (!cs_stream_saves(stream) && cs_stream_good(stream) && starved)
		cs_virtio_again(dev, 0);
}

static void rng_free(struct cs_virtio *dev)
{
	struct rng *rng = (struct rng *)dev;

	cs_timer_free(rng->more);
	free(rng);
}

static const struct cs_virtio_ops ops = {
	.name = "rng",
	.id = VIRTIO_ID_RNG,
	.queues = 1,
	.queue_size = QUEUE_SIZE,
	.kick = kick,
	.reset = reset,
	.state = state,
	.free = rng_free,
};

int cs_virtio_rng_create(struct cs_virtio **ret, struct cs_err *err)
{
	struct rng *rng = calloc(1, sizeof(*rng));

	if (!rng)
		return cs_fail_errno(err, ENOMEM, "virtio rng");
	rng->dev.ops = &ops;
	*ret = &rng->dev;
	return 0;
}

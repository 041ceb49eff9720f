/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fake/notes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

struct note_taker {
	struct cs_virtio dev;
	struct fake_notes *notes;
};

static struct fake_notes *notes_of(struct cs_virtio *dev)
{
	return ((struct note_taker *)dev)->notes;
}

static void config_read(struct cs_virtio *dev, uint64_t offset, void *buf, size_t bytes)
{
	cs_virtio_config(NOTES_CONFIG, sizeof(NOTES_CONFIG), offset, buf, bytes);
}

static void config_write(struct cs_virtio *dev, uint64_t offset, const void *buf, size_t bytes)
{
	notes_of(dev)->write_offset = offset;
	notes_of(dev)->write_bytes = bytes;
}

static void note_start(struct cs_virtio *dev)
{
	assert_true(dev->running);
	notes_of(dev)->starts++;
}

static int64_t serve(struct cs_virtio *dev, const struct cs_chain *chain)
{
	struct fake_notes *notes = notes_of(dev);

	notes->served++;
	if (notes->again)
		fake_publish(notes->again, chain->head);
	return notes->answer;
}

static void note_kick(struct cs_virtio *dev, unsigned queue)
{
	assert_true(dev->running);
	notes_of(dev)->kicks[queue]++;
	if (queue == 0)
		cs_virtio_serve(dev, queue, serve);
}

static void note_reset(struct cs_virtio *dev)
{
	assert_false(dev->running);
	assert_false(dev->queue[0].ready);
	notes_of(dev)->resets++;
}

static void note_free(struct cs_virtio *dev)
{
	notes_of(dev)->frees++;
	free(dev);
}

static const struct cs_virtio_ops ops = {
	.name = "notes",
	.id = NOTES_ID,
	.queues = NOTES_QUEUES,
	.queue_size = NOTES_SIZE,
	.features = NOTES_FEATURE,
	.config_read = config_read,
	.config_write = config_write,
	.start = note_start,
	.kick = note_kick,
	.reset = note_reset,
	.free = note_free,
};

struct cs_virtio *fake_note_taker(struct fake_notes *notes)
{
	struct note_taker *taker = calloc(1, sizeof(*taker));

	assert_non_null(taker);
	taker->dev.ops = &ops;
	taker->notes = notes;
	return &taker->dev;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A virtio device that only takes notes of what its transport tells it. */
#pragma once

#include "tests/fake/driver.h"
#include "vmm/virtio.h"

#define NOTES_ID      42
#define NOTES_QUEUES  2 /* the first serves requests, the second only counts kicks */
#define NOTES_SIZE    8
#define NOTES_FEATURE (UINT64_C(1) << 5)
#define NOTES_CONFIG  "configuration!"

/* What the device was told; outlives it. */
struct fake_notes {
	unsigned starts, resets, frees, kicks[NOTES_QUEUES], served;
	uint64_t write_offset;
	size_t write_bytes;
	int64_t answer;           /* to requests */
	struct fake_queue *again; /* publishes another request while it is being served */
};

struct cs_virtio *fake_note_taker(struct fake_notes *notes);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes a file front to back from a thread of its own, so that reading and unpacking go on
 * meanwhile, and starts the disk early, so that there is little left to wait for at the end. */
#pragma once

#include <stdint.h>

#include "store/share.h"

struct cs_writer;

/* Append to the file (fd), which is lent and empty, from (skip) bytes on. -ENOMEM, -EAGAIN (no
 * thread to be had). */
int cs_writer_open(int fd, uint64_t skip, struct cs_writer **ret);

/* Before anything is appended: what (share), lent, knows is cloned instead of written. It is the
 * writer's until that is flushed or freed. */
void cs_writer_share(struct cs_writer *writer, struct cs_share *share);

/* Append (bytes) of (data), or of zeroes; long runs of zeroes are left out, so that the file is
 * sparse there. -errno of a write, now or before: it sticks. */
int cs_writer_append(struct cs_writer *writer, const void *data, uint64_t bytes);
int cs_writer_zero(struct cs_writer *writer, uint64_t bytes);

/* Wait until all is in the file (not: on the disk). */
int cs_writer_flush(struct cs_writer *writer);

uint64_t cs_writer_tell(const struct cs_writer *writer);

/* What has not been flushed is lost. */
struct cs_writer *cs_writer_free(struct cs_writer *writer);

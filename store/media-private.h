/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What media.c and its media know of each other. */
#pragma once

#include <stdbool.h>

#include "store/media.h"

#define CS_MEDIA_NAME 160 /* "<template>@<version>.<part>" */

/* Is this one of ours that some version refers to? A file is known by its (name) alone, an extent
 * of a device, whose (name) is NULL, by its (offset): the way to the medium is not asked for, since
 * one medium can be spelled in two ways, or be mounted elsewhere today. What may be another
 * medium's is kept too long, never deleted too early. */
struct cs_media_kept {
	bool (*find)(const char *name, uint64_t offset, void *arg);
	void *arg;
};

struct cs_media_ops {
	const char *prefix; /* "fsdax:" */
	enum cs_media kind;
	int (*open)(const struct cs_manifest_part *part, struct cs_view *ret, struct cs_err *err);
	int (*place)(const char *id, const char *place, const struct cs_media_piece *piece,
		     struct cs_manifest_part *part, int *ret_fd, struct cs_err *err);
	int (*sweep)(const char *id, const char *place, const struct cs_media_kept *kept,
		     struct cs_err *err);
	void (*place_of)(const struct cs_manifest_part *part, char ret[CS_MEDIA_WHERE]);
};

extern const struct cs_media_ops cs_media_fsdax, cs_media_devdax;

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tar archives made by hand, header by header: also such as no tar program writes. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct cs_fake_tar {
	unsigned char *data;
	size_t bytes;
};

struct cs_fake_entry {
	const char *name, *target; /* of at most 100 bytes; longer ones go by pax */
	char type; /* '0' file, '1' hard link, '2' link, '3' '4' devices, '5' folder */
	unsigned mode;
	uint64_t uid, gid, mtime;
	unsigned major_number, minor_number;
	const void *data;
	size_t data_bytes;
	uint64_t claimed_bytes; /* 0: data_bytes */
};

void cs_fake_tar_add(struct cs_fake_tar *tar, const struct cs_fake_entry *entry);

/* Extended headers for the next entry: (key) and (value) of each, NULL-ended pairs. */
void cs_fake_tar_pax(struct cs_fake_tar *tar, const char *const *pairs);

/* The mark of the end. */
void cs_fake_tar_end(struct cs_fake_tar *tar);

/* Write what there is to (name) in (dirfd), and start anew. */
void cs_fake_tar_save(struct cs_fake_tar *tar, int dirfd, const char *name);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fake/tar.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 512

static unsigned char *grow(struct cs_fake_tar *tar, size_t bytes)
{
	size_t rounded = (bytes + BLOCK - 1) / BLOCK * BLOCK;
	unsigned char *at;

	tar->data = realloc(tar->data, tar->bytes + rounded + 1);
	assert(tar->data);
	at = tar->data + tar->bytes;
	memset(at, 0, rounded);
	tar->bytes += rounded;
	return at;
}

static void put_octal(unsigned char *at, size_t room, uint64_t value)
{
	char text[32];
	int digits =
		snprintf(text, sizeof(text), "%0*llo", (int)room - 1, (unsigned long long)value);

	if ((size_t)digits < room) {
		memcpy(at, text, (size_t)digits);
		return;
	}
	/* base 256, as GNU tar */
	memset(at, 0, room);
	at[0] = 0x80;
	for (size_t i = 0; i < 8 && i < room - 1; i++)
		at[room - 1 - i] = (unsigned char)(value >> 8 * i);
}

static void put_header(unsigned char *at, const struct cs_fake_entry *entry, uint64_t bytes)
{
	unsigned sum = 0;
	char text[16];

	strncpy((char *)at, entry->name, 100);
	put_octal(at + 100, 8, entry->mode);
	put_octal(at + 108, 8, entry->uid);
	put_octal(at + 116, 8, entry->gid);
	put_octal(at + 124, 12, bytes);
	put_octal(at + 136, 12, entry->mtime);
	memset(at + 148, ' ', 8);
	at[156] = (unsigned char)entry->type;
	if (entry->target)
		strncpy((char *)at + 157, entry->target, 100);
	memcpy(at + 257, "ustar\00000", 8);
	put_octal(at + 329, 8, entry->major_number);
	put_octal(at + 337, 8, entry->minor_number);
	for (int i = 0; i < BLOCK; i++)
		sum += at[i];
	snprintf(text, sizeof(text), "%06o", sum);
	memcpy(at + 148, text, 7);
}

void cs_fake_tar_add(struct cs_fake_tar *tar, const struct cs_fake_entry *entry)
{
	uint64_t bytes = entry->claimed_bytes ? entry->claimed_bytes : entry->data_bytes;

	put_header(grow(tar, BLOCK), entry, bytes);
	if (entry->data_bytes)
		memcpy(grow(tar, entry->data_bytes), entry->data, entry->data_bytes);
}

void cs_fake_tar_pax(struct cs_fake_tar *tar, const char *const *pairs)
{
	struct cs_fake_entry head = { .name = "PaxHeaders/x", .type = 'x', .mode = 0644 };
	char *text = NULL;
	size_t bytes = 0;

	for (; *pairs; pairs += 2) {
		size_t rest = strlen(pairs[0]) + strlen(pairs[1]) + 3, all = rest;
		char length[16];
		int digits;

		/* the length counts its own digits */
		do {
			digits = snprintf(length, sizeof(length), "%zu", all);
			all = rest + (size_t)digits;
		} while (snprintf(NULL, 0, "%zu", all) != digits);
		text = realloc(text, bytes + all + 1);
		assert(text);
		bytes += (size_t)snprintf(text + bytes, all + 1, "%zu %s=%s\n", all, pairs[0],
					  pairs[1]);
	}
	head.data = text;
	head.data_bytes = bytes;
	cs_fake_tar_add(tar, &head);
	free(text);
}

void cs_fake_tar_end(struct cs_fake_tar *tar)
{
	grow(tar, BLOCK);
	grow(tar, BLOCK);
}

void cs_fake_tar_save(struct cs_fake_tar *tar, int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t n = tar->bytes ? write(fd, tar->data, tar->bytes) : 0;

	assert(fd >= 0 && n == (ssize_t)tar->bytes);
	close(fd);
	free(tar->data);
	*tar = (struct cs_fake_tar){ 0 };
}

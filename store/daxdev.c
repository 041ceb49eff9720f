/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/daxdev.h"

#include <emmintrin.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define LINE_BYTES 64

static int read_number(const struct stat *st, const char *key, uint64_t *ret)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char path[80];
	int r;

	snprintf(path, sizeof(path), "/sys/dev/char/%u:%u/%s", major(st->st_rdev),
		 minor(st->st_rdev), key);
	r = cs_read_file_at(AT_FDCWD, path, 64, &text, NULL);
	if (r < 0)
		return -ENOTTY;
	text[strspn(text, "0123456789")] = '\0';
	return cs_parse_u64(text, INT64_MAX, ret) < 0 ? -ENOTTY : 0;
}

int cs_daxdev_info(int fd, uint64_t *ret_bytes, uint64_t *ret_align)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISCHR(st.st_mode))
		return -ENOTTY;
	r = read_number(&st, "size", ret_bytes);
	return r < 0 ? r : read_number(&st, "align", ret_align);
}

void *cs_daxdev_map(int fd, uint64_t offset, uint64_t bytes, bool write)
{
	void *at = mmap(NULL, bytes, PROT_READ | (write ? PROT_WRITE : 0), MAP_SHARED, fd,
			(off_t)offset);

	return at == MAP_FAILED ? NULL : at;
}

void cs_daxdev_copy(void *to, const void *from, uint64_t bytes)
{
	memcpy(to, from, bytes);
	for (uint64_t at = 0; at < bytes; at += LINE_BYTES)
		_mm_clflush((const char *)to + at);
	_mm_sfence();
}

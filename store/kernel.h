/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A kernel as people have it -> the uncompressed ELF vmlinux that a machine boots. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"

#define CS_RELEASE_TEXT 65 /* as uname(2): 64 and a NUL */

/* What the release of our own guest kernels holds (CONFIG_LOCALVERSION). Any other is a
 * distribution's: without our patches, and with its drivers in modules. */
#define CS_KERNEL_OWN "-clearstore"

struct cs_kernel_info {
	char release[CS_RELEASE_TEXT]; /* "6.12.117-clearstore" */
	bool stock;
};

/* Unpack the kernel (path), a bzImage (boot protocol 2.08 and later, compressed by gzip, bzip2,
 * lzma, xz, lz4 or zstd) or an ELF vmlinux, to the empty file (out_fd), and check that it is one
 * for x86-64 with all that its program headers promise. -EINVAL with words: no kernel, of another
 * machine, a compressed vmlinux, damaged; -EFBIG: over 512 MiB. */
int cs_kernel_unpack(const char *path, int out_fd, struct cs_kernel_info *ret, struct cs_err *err);

/* Is the file (fd) of (bytes) an ELF that a machine can boot? -EINVAL with words. */
int cs_kernel_check(int fd, uint64_t bytes, struct cs_err *err);

/* Where the compressed kernel lies in a bzImage whose first (head_bytes) are (head), and its
 * release ("" when it does not say). Pure. -EINVAL with words. */
struct cs_bzimage {
	uint64_t payload_offset, payload_bytes;
	char release[CS_RELEASE_TEXT];
};
int cs_bzimage_parse(const void *head, uint64_t head_bytes, uint64_t file_bytes,
		     struct cs_bzimage *ret, struct cs_err *err);

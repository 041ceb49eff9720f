/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/kernel.h"

#include <elf.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/archive.h"
#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define KERNEL_MAX (512 * CS_MIB)
#define STEP_BYTES (UINT64_C(1) << 20)
#define HEAD_BYTES (UINT64_C(64) << 10) /* setup_sects is a byte: at most 256 sectors of 512 */
#define SEGS_MAX   64
#define PADDR_MAX  (UINT64_C(1) << 40)

/* Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header" */
#define SETUP_SECTS    0x1f1
#define BOOT_FLAG      0x1fe
#define HEADER         0x202
#define VERSION        0x206
#define KERNEL_VERSION 0x20e
#define XLOADFLAGS     0x236
#define PAYLOAD_OFFSET 0x248
#define PAYLOAD_LENGTH 0x24c
#define HEADER_END     0x268

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) | (uint32_t)get16(p + 2) << 16;
}

/* The first word of (text), of at most (room) bytes; "" unless it begins with a digit. It becomes
 * part of a path: so no slash, and no dot in front. */
static void take_release(const uint8_t *text, uint64_t room, char ret[CS_RELEASE_TEXT])
{
	size_t n;

	for (n = 0; n < room && n < CS_RELEASE_TEXT - 1; n++) {
		if (text[0] < '0' || text[0] > '9' || text[n] <= ' ' || text[n] > '~' ||
		    strchr("/\"\\'", text[n]))
			break;
		ret[n] = (char)text[n];
	}
	ret[n] = '\0';
}

int cs_bzimage_parse(const void *head, uint64_t head_bytes, uint64_t file_bytes,
		     struct cs_bzimage *ret, struct cs_err *err)
{
	const uint8_t *p = head;
	struct cs_bzimage found = { 0 };
	uint64_t setup, version;

	if (head_bytes < HEADER_END || get16(p + BOOT_FLAG) != 0xaa55 ||
	    memcmp(p + HEADER, "HdrS", 4))
		return cs_fail(err, EINVAL,
			       "not a kernel (a bzImage or an uncompressed vmlinux is wanted)");
	if (get16(p + VERSION) < 0x208)
		return cs_fail(err, EINVAL, "a kernel from before 2008: too old");
	setup = ((p[SETUP_SECTS] ? p[SETUP_SECTS] : UINT64_C(4)) + 1) * 512;
	found.payload_offset = setup + get32(p + PAYLOAD_OFFSET);
	found.payload_bytes = get32(p + PAYLOAD_LENGTH);
	if (!found.payload_bytes || found.payload_offset > file_bytes ||
	    found.payload_bytes > file_bytes - found.payload_offset)
		return cs_fail(err, EINVAL, "a truncated or damaged bzImage");

	version = get16(p + KERNEL_VERSION);
	if (version && version + 0x200 < setup && version + 0x200 < head_bytes)
		take_release(p + version + 0x200, head_bytes - version - 0x200, found.release);
	*ret = found;
	return 0;
}

/* ---- unpacking ---- */

/* Where the kernel is written to. */
struct sink {
	int fd;
	uint64_t at;
};

static int write_out(void *arg, const void *data, size_t bytes, struct cs_err *err)
{
	struct sink *sink = arg;
	int r;

	r = cs_pwrite_full(sink->fd, data, bytes, sink->at);
	if (r == -ENOSPC || r == -EDQUOT)
		return cs_fail(err, -r, "the store is full (remove a template, or make room)");
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot write the kernel");
	sink->at += bytes;
	return 0;
}

/* Behind the compressed bytes the build appends their unpacked length in 4 bytes, for all but gzip,
 * which has it itself (Linux scripts/Makefile.lib, size_append). Decompressors take it for a
 * damaged next stream. */
static uint64_t trailer_bytes(int fd, const struct cs_bzimage *image)
{
	uint8_t magic[2];

	if (image->payload_bytes < 8 ||
	    cs_pread_full(fd, magic, sizeof(magic), image->payload_offset) < 0)
		return 0;
	return magic[0] == 0x1f && magic[1] == 0x8b ? 0 : 4;
}

static int unpack_bzimage(int fd, const struct cs_bzimage *image, int out_fd, struct cs_err *err)
{
	const struct cs_archive_stream payload = {
		.fd = fd,
		.offset = image->payload_offset,
		.bytes = image->payload_bytes - trailer_bytes(fd, image),
		.max_bytes = KERNEL_MAX,
	};
	struct sink sink = { .fd = out_fd };
	int r;

	r = cs_archive_unpack(&payload, write_out, &sink, err);
	return r < 0 ? cs_fail_in(err, r, "its compressed part") : 0;
}

static int copy_vmlinux(int fd, uint64_t bytes, int out_fd, struct cs_err *err)
{
	cs_auto(cs_mem_freep) uint8_t *buf = malloc(STEP_BYTES);
	struct sink sink = { .fd = out_fd };
	uint64_t part;
	int r = 0;

	if (!buf)
		return cs_fail_errno(err, ENOMEM, "kernel");
	while (sink.at < bytes && r == 0) {
		part = bytes - sink.at < STEP_BYTES ? bytes - sink.at : STEP_BYTES;
		r = cs_pread_full(fd, buf, part, sink.at);
		if (r < 0)
			return cs_fail_errno(err, -r, "cannot read");
		r = write_out(&sink, buf, part, err);
	}
	return r;
}

/* ---- checking ---- */

static int check_segment(const Elf64_Phdr *ph, uint64_t bytes, struct cs_err *err)
{
	if (ph->p_offset > bytes || ph->p_filesz > bytes - ph->p_offset)
		return cs_fail(err, EINVAL, "a truncated vmlinux");
	if (ph->p_filesz > ph->p_memsz || ph->p_memsz > PADDR_MAX ||
	    ph->p_paddr > PADDR_MAX - ph->p_memsz)
		return cs_fail(err, EINVAL, "a damaged vmlinux: a segment at an impossible place");
	return 0;
}

int cs_kernel_check(int fd, uint64_t bytes, struct cs_err *err)
{
	Elf64_Phdr ph[SEGS_MAX];
	Elf64_Ehdr eh;
	unsigned loads = 0;
	int r;

	if (bytes < sizeof(eh) || cs_pread_full(fd, &eh, sizeof(eh), 0) < 0 ||
	    memcmp(eh.e_ident, ELFMAG, SELFMAG))
		return cs_fail(err, EINVAL,
			       "not a kernel (a bzImage or an uncompressed vmlinux is wanted)");
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh.e_machine != EM_X86_64)
		return cs_fail(err, EINVAL, "not a kernel for x86-64");
	if (eh.e_type != ET_EXEC || eh.e_phentsize != sizeof(ph[0]) || !eh.e_phnum ||
	    eh.e_phnum > SEGS_MAX)
		return cs_fail(err, EINVAL, "an ELF file, but no kernel");
	if (cs_pread_full(fd, ph, eh.e_phnum * sizeof(ph[0]), eh.e_phoff) < 0)
		return cs_fail(err, EINVAL, "a truncated vmlinux");
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		if (ph[i].p_type != PT_LOAD)
			continue;
		r = check_segment(&ph[i], bytes, err);
		if (r < 0)
			return r;
		loads++;
	}
	if (!loads)
		return cs_fail(err, EINVAL, "an ELF file with nothing to load: no kernel");
	return 0;
}

/* The release as the kernel's own banner has it. */
static int find_release(int fd, uint64_t bytes, char ret[CS_RELEASE_TEXT], struct cs_err *err)
{
	static const char banner[] = "Linux version ";
	const uint64_t overlap = sizeof(banner) + CS_RELEASE_TEXT;
	cs_auto(cs_mem_freep) uint8_t *buf = malloc(STEP_BYTES + overlap);
	uint64_t at, part;
	int r;

	if (!buf)
		return cs_fail_errno(err, ENOMEM, "kernel");
	for (at = 0; at < bytes; at += STEP_BYTES) {
		const uint8_t *p = buf;

		part = bytes - at < STEP_BYTES + overlap ? bytes - at : STEP_BYTES + overlap;
		r = cs_pread_full(fd, buf, part, at);
		if (r < 0)
			return cs_fail_errno(err, -r, "cannot read the kernel back");
		while ((p = memmem(p, (size_t)(buf + part - p), banner, sizeof(banner) - 1))) {
			p += sizeof(banner) - 1;
			if (p < buf + part && *p >= '0' && *p <= '9') {
				take_release(p, (uint64_t)(buf + part - p), ret);
				return 0;
			}
		}
	}
	return cs_fail(err, EINVAL, "an ELF file, but not Linux");
}

/* Words for what people try. */
static int check_compressed(const uint8_t *head, struct cs_err *err)
{
	static const struct {
		const char *magic, *program;
		size_t bytes;
	} kinds[] = {
		{ "\x1f\x8b", "gzip", 2 },
		{ "\xfd"
		  "7zXZ",
		  "xz", 5 },
		{ "\x28\xb5\x2f\xfd", "zstd", 4 },
		{ "BZh", "bzip2", 3 },
		{ "\x02\x21\x4c\x18", "lz4", 4 },
		{ "\x04\x22\x4d\x18", "lz4", 4 },
		{ "\x5d\x00\x00\x00", "lzma", 4 },
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (!memcmp(head, kinds[i].magic, kinds[i].bytes))
			return cs_fail(err, EINVAL, "compressed: unpack it first (%s -d)",
				       kinds[i].program);
	}
	return 0;
}

static int unpack(int fd, int out_fd, struct cs_kernel_info *ret, struct cs_err *err)
{
	cs_auto(cs_mem_freep) uint8_t *head = calloc(1, HEAD_BYTES);
	struct cs_bzimage image;
	uint64_t bytes, part;
	struct stat st;
	int r;

	if (!head || fstat(fd, &st) < 0)
		return cs_fail_errno(err, head ? errno : ENOMEM, "cannot read");
	if (!S_ISREG(st.st_mode))
		return cs_fail(err, EINVAL, "not a file");
	bytes = (uint64_t)st.st_size;
	part = bytes < HEAD_BYTES ? bytes : HEAD_BYTES;
	if (bytes > KERNEL_MAX)
		return cs_fail(err, EFBIG, "over 512 MiB: not a kernel");
	r = cs_pread_full(fd, head, part, 0);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot read");

	if (!memcmp(head, ELFMAG, SELFMAG)) {
		r = cs_kernel_check(fd, bytes, err);
		return r < 0 ? r : copy_vmlinux(fd, bytes, out_fd, err);
	}
	r = check_compressed(head, err);
	if (r == 0)
		r = cs_bzimage_parse(head, part, bytes, &image, err);
	if (r < 0)
		return r;
	memcpy(ret->release, image.release, sizeof(ret->release));
	return unpack_bzimage(fd, &image, out_fd, err);
}

int cs_kernel_unpack(const char *path, int out_fd, struct cs_kernel_info *ret, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct cs_kernel_info info = { 0 };
	struct stat st;
	int r;

	if (fd < 0)
		return cs_fail_errno(err, errno, "kernel '%s'", path);
	r = unpack(fd, out_fd, &info, err);
	if (r == 0 && fstat(out_fd, &st) < 0)
		r = cs_fail_errno(err, errno, "cannot read the kernel back");
	if (r == 0)
		r = cs_kernel_check(out_fd, (uint64_t)st.st_size, err);
	if (r == 0 && !info.release[0])
		r = find_release(out_fd, (uint64_t)st.st_size, info.release, err);
	if (r < 0)
		return cs_fail_in(err, r, "kernel '%s'", path);
	info.stock = !strstr(info.release, CS_KERNEL_OWN);
	*ret = info;
	return 0;
}

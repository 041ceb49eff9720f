/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Kernels that nobody would boot: an ELF with a banner, and what a bzImage has around one. */
#pragma once

#include <elf.h>
#include <stddef.h>
#include <stdint.h>

#define CS_FAKE_VMLINUX_BYTES 16384

/* Fill (buf) with a vmlinux of (release). Its ELF headers may then be broken by a test. */
void cs_fake_vmlinux(unsigned char buf[CS_FAKE_VMLINUX_BYTES], const char *release);
Elf64_Ehdr *cs_fake_elf(unsigned char *buf);
Elf64_Phdr *cs_fake_segment(unsigned char *buf);

#define CS_FAKE_SETUP_BYTES 2560 /* four sectors and one */

/* Fill (buf) with the head of a bzImage whose payload of (payload_bytes) follows it. */
void cs_fake_bzimage(unsigned char buf[CS_FAKE_SETUP_BYTES], uint32_t payload_bytes,
		     const char *release);
void cs_fake_put16(unsigned char *at, uint16_t value);
void cs_fake_put32(unsigned char *at, uint32_t value);

/* Write (bytes) of (data) to (name) in (dirfd). */
void cs_fake_file(int dirfd, const char *name, const void *data, size_t bytes);

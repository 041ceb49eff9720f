/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fake/kernel.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

Elf64_Ehdr *cs_fake_elf(unsigned char *buf)
{
	return (Elf64_Ehdr *)buf;
}

Elf64_Phdr *cs_fake_segment(unsigned char *buf)
{
	return (Elf64_Phdr *)(buf + sizeof(Elf64_Ehdr));
}

void cs_fake_vmlinux(unsigned char buf[CS_FAKE_VMLINUX_BYTES], const char *release)
{
	Elf64_Ehdr *eh = cs_fake_elf(buf);
	Elf64_Phdr *ph = cs_fake_segment(buf);

	memset(buf, 0, CS_FAKE_VMLINUX_BYTES);
	memcpy(eh->e_ident, ELFMAG, SELFMAG);
	eh->e_ident[EI_CLASS] = ELFCLASS64;
	eh->e_ident[EI_DATA] = ELFDATA2LSB;
	eh->e_ident[EI_VERSION] = EV_CURRENT;
	eh->e_type = ET_EXEC;
	eh->e_machine = EM_X86_64;
	eh->e_version = EV_CURRENT;
	eh->e_entry = 0x1000000;
	eh->e_phoff = sizeof(*eh);
	eh->e_ehsize = sizeof(*eh);
	eh->e_phentsize = sizeof(*ph);
	eh->e_phnum = 1;
	ph->p_type = PT_LOAD;
	ph->p_offset = 4096;
	ph->p_paddr = ph->p_vaddr = 0x1000000;
	ph->p_filesz = CS_FAKE_VMLINUX_BYTES - 4096;
	ph->p_memsz = 1 << 20;
	/* a format first, as in the real thing: only a digit begins a release */
	snprintf((char *)buf + 8000, 256, "Linux version %%s (by a test)");
	snprintf((char *)buf + 9000, 256, "Linux version %s (tester@test) #1 SMP", release);
}

void cs_fake_put16(unsigned char *at, uint16_t value)
{
	at[0] = (unsigned char)value;
	at[1] = (unsigned char)(value >> 8);
}

void cs_fake_put32(unsigned char *at, uint32_t value)
{
	cs_fake_put16(at, (uint16_t)value);
	cs_fake_put16(at + 2, (uint16_t)(value >> 16));
}

void cs_fake_bzimage(unsigned char buf[CS_FAKE_SETUP_BYTES], uint32_t payload_bytes,
		     const char *release)
{
	memset(buf, 0, CS_FAKE_SETUP_BYTES);
	buf[0x1f1] = CS_FAKE_SETUP_BYTES / 512 - 1;
	cs_fake_put16(buf + 0x1fe, 0xaa55);
	memcpy(buf + 0x202, "HdrS", 4);
	cs_fake_put16(buf + 0x206, 0x20f);
	cs_fake_put16(buf + 0x20e, 0x300);
	snprintf((char *)buf + 0x500, 200, "%s (tester@test) #1", release);
	cs_fake_put32(buf + 0x248, 0);
	cs_fake_put32(buf + 0x24c, payload_bytes);
}

void cs_fake_file(int dirfd, const char *name, const void *data, size_t bytes)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t n;

	assert(fd >= 0);
	n = write(fd, data, bytes);
	assert(n == (ssize_t)bytes);
	close(fd);
}

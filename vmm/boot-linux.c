/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/boot-linux.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "vmm/acpi.h"

/* All below 640 KiB, where nothing else of ours is. */
enum {
	AT_GDT = 0x500,
	AT_BOOT_PARAMS = 0x7000,
	AT_SEED = 0x8000,
	AT_PML4 = 0x9000,
	AT_PDPT = 0xa000,
	AT_PD = 0xb000, /* four pages: 4 GiB */
	AT_CMDLINE = 0x20000,
	LOW_END = 0x9fc00, /* the extended BIOS data area would begin here */
	HIGH_START = 0x100000,
};

#define KERNEL_SEGMENTS_MAX 64

/* Load the file's stretch (offset, bytes) to (gpa): whole pages by a private mapping, the rest by
 * reading. */
static int load_stretch(const struct cs_mem *mem, int fd, uint64_t offset, uint64_t gpa,
			uint64_t bytes)
{
	uint64_t head, pages;
	uint8_t *host = cs_mem_at(mem, gpa, bytes, true);
	int r;

	if (!host)
		return -EFBIG;
	if ((offset ^ gpa) % CS_PAGE_BYTES ||
	    (uintptr_t)host % CS_PAGE_BYTES != gpa % CS_PAGE_BYTES)
		return cs_pread_full(fd, host, bytes, offset);

	head = cs_align_up(gpa, CS_PAGE_BYTES) - gpa;
	if (head > bytes)
		head = bytes;
	pages = cs_align_down(bytes - head, CS_PAGE_BYTES);
	r = cs_pread_full(fd, host, head, offset);
	if (r < 0)
		return r;
	if (pages &&
	    mmap(host + head, pages, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)(offset + head)) == MAP_FAILED)
		return -errno;
	return cs_pread_full(fd, host + head + pages, bytes - head - pages, offset + head + pages);
}

static int check_header(const Elf64_Ehdr *head)
{
	if (memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 || head->e_ident[EI_CLASS] != ELFCLASS64 ||
	    head->e_ident[EI_DATA] != ELFDATA2LSB || head->e_machine != EM_X86_64 ||
	    head->e_phentsize != sizeof(Elf64_Phdr) || !head->e_phnum ||
	    head->e_phnum > KERNEL_SEGMENTS_MAX)
		return -ENOEXEC;
	return 0;
}

/* Load all PT_LOAD segments; *ret_entry and *ret_end: gpa of the first instruction, gpa behind the
 * kernel. */
static int load_kernel(const struct cs_mem *mem, int fd, uint64_t *ret_entry, uint64_t *ret_end)
{
	Elf64_Phdr segment[KERNEL_SEGMENTS_MAX];
	uint64_t file_bytes, end, last = 0;
	struct stat st;
	Elf64_Ehdr head;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	file_bytes = (uint64_t)st.st_size;
	if (cs_pread_full(fd, &head, sizeof(head), 0) < 0 || check_header(&head) < 0 ||
	    cs_pread_full(fd, segment, head.e_phnum * sizeof(segment[0]), head.e_phoff) < 0)
		return -ENOEXEC;

	for (unsigned i = 0; i < head.e_phnum; i++) {
		const Elf64_Phdr *s = &segment[i];

		if (s->p_type != PT_LOAD || !s->p_memsz)
			continue;
		/* Inside the file, or a fault on the mapping would kill the monitor; above what we
		 * write below 1 MiB. */
		if (s->p_filesz > s->p_memsz || s->p_paddr < HIGH_START ||
		    !cs_add_u64(s->p_offset, s->p_filesz, &end) || end > file_bytes ||
		    !cs_add_u64(s->p_paddr, s->p_memsz, &end))
			return -ENOEXEC;
		if (!cs_mem_at(mem, s->p_paddr, s->p_memsz, true))
			return -EFBIG;
		if (s->p_filesz) {
			r = load_stretch(mem, fd, s->p_offset, s->p_paddr, s->p_filesz);
			if (r < 0)
				return r;
		}
		if (end > last)
			last = end;
	}
	if (head.e_entry < HIGH_START || head.e_entry >= last)
		return -ENOEXEC;
	*ret_entry = head.e_entry;
	*ret_end = last;
	return 0;
}

/* As high as it goes in the first segment, clear of the kernel. */
static int load_initrd(const struct cs_mem *mem, int fd, uint64_t kernel_end,
		       struct setup_header *hdr, struct cs_err *err)
{
	const struct cs_seg *low = &mem->ram.seg[0];
	uint64_t bytes, gpa;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "cannot read the initrd");
	bytes = (uint64_t)st.st_size;
	if (bytes > low->bytes || cs_align_up(kernel_end, CS_PAGE_BYTES) > low->bytes - bytes)
		return cs_fail(
			err, EFBIG,
			"kernel and initrd do not fit into the guest's memory (try --memory 256M)");
	gpa = cs_align_down(low->bytes - bytes, CS_PAGE_BYTES);
	r = load_stretch(mem, fd, 0, gpa, bytes);
	if (r < 0)
		return cs_fail_errno(err, r, "cannot load the initrd");
	hdr->ramdisk_image = (uint32_t)gpa;
	hdr->ramdisk_size = (uint32_t)bytes;
	return 0;
}

static void add_e820(struct boot_params *params, uint64_t gpa, uint64_t bytes, uint32_t type)
{
	params->e820_table[params->e820_entries++] =
		(struct boot_e820_entry){ .addr = gpa, .size = bytes, .type = type };
}

static void fill_e820(const struct cs_mem *mem, struct boot_params *params)
{
	enum { RAM = 1, RESERVED = 2 };

	add_e820(params, 0, LOW_END, RAM);
	add_e820(params, LOW_END, HIGH_START - LOW_END, RESERVED);
	for (size_t i = 0; i < mem->ram.n; i++) {
		const struct cs_seg *seg = &mem->ram.seg[i];
		const uint64_t skip = seg->gpa ? 0 : HIGH_START;

		if (seg->backing != CS_BACKING_SHARED)
			add_e820(params, seg->gpa + skip, seg->bytes - skip, RAM);
	}
}

static bool write_tables(const struct cs_mem *mem)
{
	static const uint64_t gdt[] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
	uint64_t entry;

	entry = AT_PDPT | 7;
	if (!cs_mem_write(mem, AT_GDT, gdt, sizeof(gdt)) ||
	    !cs_mem_write(mem, AT_PML4, &entry, sizeof(entry)))
		return false;
	for (uint64_t gib = 0; gib < 4; gib++) {
		entry = (AT_PD + gib * CS_PAGE_BYTES) | 7;
		if (!cs_mem_write(mem, AT_PDPT + gib * 8, &entry, sizeof(entry)))
			return false;
	}
	for (uint64_t i = 0; i < 4 * 512; i++) {
		entry = i << 21 | 0x83; /* 2 MiB page, writable, present */
		if (!cs_mem_write(mem, AT_PD + i * 8, &entry, sizeof(entry)))
			return false;
	}
	return true;
}

/* Random bytes for the kernel's generator, which it wipes when it has taken them (SETUP_RNG_SEED,
 * arch/x86/kernel/setup.c). Without them each number that is drawn before it is seeded costs
 * several hashes: a second of a boot where its code is emulated. */
static bool write_seed(const struct cs_mem *mem, struct setup_header *hdr)
{
	struct {
		struct setup_data head;
		uint8_t bytes[32];
	} seed = { .head = { .type = SETUP_RNG_SEED, .len = sizeof(seed.bytes) } };
	bool written;

	/* It boots without it too. */
	if (getrandom(seed.bytes, sizeof(seed.bytes), GRND_NONBLOCK) != sizeof(seed.bytes))
		return true;
	written = cs_mem_write(mem, AT_SEED, &seed, sizeof(seed));
	explicit_bzero(&seed, sizeof(seed));
	hdr->setup_data = AT_SEED;
	return written;
}

int cs_boot_linux_load(const struct cs_mem *mem, const struct cs_boot *boot, const char *cmdline,
		       struct cs_boot_entry *ret, struct cs_err *err)
{
	struct boot_params params = { 0 };
	size_t cmdline_bytes = strlen(cmdline) + 1;
	uint64_t entry = 0, end = 0;
	int r;

	if (cmdline_bytes > CS_CMDLINE_MAX)
		return cs_fail(
			err, E2BIG,
			"kernel command line of %zu bytes: at most %u fit (shorten --append)",
			cmdline_bytes, CS_CMDLINE_MAX);
	r = load_kernel(mem, boot->kernel_fd, &entry, &end);
	if (r == -EFBIG)
		return cs_fail(
			err, EFBIG,
			"the kernel does not fit into the guest's memory (try --memory 128M)");
	if (r == -ENOEXEC)
		return cs_fail(err, ENOEXEC,
			       "the template's kernel is not an x86-64 ELF vmlinux (template "
			       "verify tells)");
	if (r < 0)
		return cs_fail_errno(err, r, "cannot load the kernel");
	if (boot->initrd_fd >= 0) {
		r = load_initrd(mem, boot->initrd_fd, end, &params.hdr, err);
		if (r < 0)
			return r;
	}

	params.hdr.type_of_loader = 0xff;
	params.hdr.boot_flag = 0xaa55;
	params.hdr.header = 0x53726448; /* "HdrS" */
	params.hdr.version = 0x020f;
	params.hdr.kernel_alignment = 0x1000000;
	params.hdr.cmd_line_ptr = AT_CMDLINE;
	params.hdr.cmdline_size = (uint32_t)cmdline_bytes;
	if (boot->stock_kernel)
		params.acpi_rsdp_addr = CS_ACPI_GPA;
	fill_e820(mem, &params);
	if (!write_seed(mem, &params.hdr) ||
	    !cs_mem_write(mem, AT_BOOT_PARAMS, &params, sizeof(params)) ||
	    !cs_mem_write(mem, AT_CMDLINE, cmdline, cmdline_bytes) || !write_tables(mem))
		return cs_fail(err, EFAULT, "the guest's RAM does not reach its boot parameters");
	*ret = (struct cs_boot_entry){ .rip = entry,
				       .rsi = AT_BOOT_PARAMS,
				       .cr3 = AT_PML4,
				       .gdt = AT_GDT,
				       .gdt_limit = 4 * 8 - 1,
				       .file = { { HIGH_START, end - HIGH_START },
						 { params.hdr.ramdisk_image,
						   params.hdr.ramdisk_size } } };
	return 0;
}

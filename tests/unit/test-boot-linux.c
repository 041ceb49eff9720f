/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel loader and the MP table, with kernels made here: honest ones and ones that lie. */
#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "vmm/boot-linux.h"
#include "vmm/mptable.h"

#define RAM_BYTES (32 * CS_MIB)

struct kernel {
	Elf64_Ehdr head;
	Elf64_Phdr segment[2];
};

static struct cs_mem mem;

static int setup(void **state)
{
	void *host =
		mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(host, MAP_FAILED);
	mem = (struct cs_mem){ .ram = { .n = 1, .seg = { { .bytes = RAM_BYTES, .host = host } } } };
	return 0;
}

static int teardown(void **state)
{
	munmap(mem.ram.seg[0].host, RAM_BYTES);
	return 0;
}

/* Text of two pages and a bit at 16 MiB, data with bss behind it. */
static struct kernel honest(void)
{
	return (struct kernel){
		.head = {
			.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_entry = 0x1000123,
			.e_phoff = offsetof(struct kernel, segment),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2,
		},
		.segment = {
			{ .p_type = PT_LOAD, .p_offset = 0x1000, .p_paddr = 0x1000000, .p_filesz = 0x2100, .p_memsz = 0x2100 },
			{ .p_type = PT_LOAD, .p_offset = 0x4010, .p_paddr = 0x1004010, .p_filesz = 0x20, .p_memsz = 0x3000 },
		},
	};
}

static int file_of(const struct kernel *kernel)
{
	int fd = memfd_create("kernel", MFD_CLOEXEC);
	uint8_t page[4096];

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 0x5000), 0);
	for (unsigned i = 1; i < 5; i++) {
		memset(page, (int)(0x10 + i), sizeof(page));
		assert_int_equal(cs_pwrite_full(fd, page, sizeof(page), i * sizeof(page)), 0);
	}
	assert_int_equal(cs_pwrite_full(fd, kernel, sizeof(*kernel), 0), 0);
	return fd;
}

static int load(const struct kernel *kernel, const char *cmdline, int initrd_fd,
		struct cs_boot_entry *entry)
{
	cs_auto(cs_fd_closep) int fd = file_of(kernel);
	const struct cs_boot boot = {
		.kernel_fd = fd, .initrd_fd = initrd_fd, .state_fd = -1, .delta_fd = -1
	};
	struct cs_err err = { 0 };
	int r = cs_boot_linux_load(&mem, &boot, cmdline, entry, &err);

	if (r < 0)
		assert_int_not_equal(strlen(err.text), 0);
	return r;
}

static const uint8_t *at(uint64_t gpa)
{
	return (const uint8_t *)mem.ram.seg[0].host + gpa;
}

static void test_loads(void **state)
{
	const struct kernel kernel = honest();
	const struct boot_params *params;
	struct cs_boot_entry entry;

	assert_int_equal(load(&kernel, "quiet ro", -1, &entry), 0);
	assert_int_equal(entry.rip, 0x1000123);
	params = (const void *)at(entry.rsi);
	assert_int_equal(params->hdr.header, 0x53726448);
	assert_string_equal((const char *)at(params->hdr.cmd_line_ptr), "quiet ro");
	assert_int_equal(*at(0x1000000), 0x11);
	assert_int_equal(*at(0x1001fff), 0x12);
	assert_int_equal(*at(0x10020ff), 0x13);
	assert_int_equal(*at(0x1002100), 0); /* behind the segment's end, though its file goes on */
	assert_int_equal(*at(0x1004010), 0x14);
	assert_int_equal(*at(0x1004030), 0);
	assert_int_equal(params->e820_entries, 3);
	assert_int_equal(params->e820_table[2].addr, CS_MIB);
	assert_int_equal(params->e820_table[2].addr + params->e820_table[2].size, RAM_BYTES);
}

/* Each boot has random numbers of its own to begin with. */
static void test_seed(void **state)
{
	const struct kernel kernel = honest();
	const struct boot_params *params;
	const struct setup_data *seed;
	struct cs_boot_entry entry;
	uint8_t before[32];

	for (int i = 0; i < 2; i++) {
		assert_int_equal(load(&kernel, "", -1, &entry), 0);
		params = (const void *)at(entry.rsi);
		seed = (const void *)at(params->hdr.setup_data);
		assert_int_equal(seed->next, 0);
		assert_int_equal(seed->type, SETUP_RNG_SEED);
		assert_int_equal(seed->len, sizeof(before));
		if (i)
			assert_memory_not_equal(seed->data, before, sizeof(before));
		memcpy(before, seed->data, sizeof(before));
	}
}

/* What a guest writes over its kernel is its own. */
static void test_kernel_file_untouched(void **state)
{
	const struct kernel kernel = honest();
	cs_auto(cs_fd_closep) int fd = file_of(&kernel);
	const struct cs_boot boot = {
		.kernel_fd = fd, .initrd_fd = -1, .state_fd = -1, .delta_fd = -1
	};
	struct cs_boot_entry entry;
	uint8_t byte;

	assert_int_equal(cs_boot_linux_load(&mem, &boot, "", &entry, NULL), 0);
	memset((uint8_t *)mem.ram.seg[0].host + 0x1000000, 0xee, 0x2000);
	assert_int_equal(cs_pread_full(fd, &byte, 1, 0x1000), 0);
	assert_int_equal(byte, 0x11);
}

static void test_initrd(void **state)
{
	const struct kernel kernel = honest();
	cs_auto(cs_fd_closep) int initrd = memfd_create("initrd", MFD_CLOEXEC);
	const struct boot_params *params;
	struct cs_boot_entry entry;

	assert_int_equal(cs_write_full(initrd, "070701", 6), 0);
	assert_int_equal(load(&kernel, "", initrd, &entry), 0);
	params = (const void *)at(entry.rsi);
	assert_int_equal(params->hdr.ramdisk_size, 6);
	assert_memory_equal(at(params->hdr.ramdisk_image), "070701", 6);

	assert_int_equal(ftruncate(initrd, RAM_BYTES), 0);
	assert_int_equal(load(&kernel, "", initrd, &entry), -EFBIG);
}

static void test_cmdline_too_long(void **state)
{
	const struct kernel kernel = honest();
	char cmdline[CS_CMDLINE_MAX + 1];
	struct cs_boot_entry entry;

	memset(cmdline, 'x', sizeof(cmdline) - 1);
	cmdline[sizeof(cmdline) - 1] = 0;
	assert_int_equal(load(&kernel, cmdline, -1, &entry), -E2BIG);
	cmdline[CS_CMDLINE_MAX - 1] = 0;
	assert_int_equal(load(&kernel, cmdline, -1, &entry), 0);
}

static void test_refuses_liars(void **state)
{
	struct cs_boot_entry entry;
	struct kernel kernel;

#define REFUSE(change, code)                                                                       \
	do {                                                                                       \
		kernel = honest();                                                                 \
		change;                                                                            \
		assert_int_equal(load(&kernel, "", -1, &entry), code);                             \
	} while (0)

	REFUSE(kernel.head.e_ident[0] = 'M', -ENOEXEC);
	REFUSE(kernel.head.e_ident[EI_CLASS] = ELFCLASS32, -ENOEXEC);
	REFUSE(kernel.head.e_machine = EM_AARCH64, -ENOEXEC);
	REFUSE(kernel.head.e_phnum = 0, -ENOEXEC);
	REFUSE(kernel.head.e_phnum = 0xffff, -ENOEXEC);
	REFUSE(kernel.head.e_phoff = UINT64_MAX - 8, -ENOEXEC);
	REFUSE(kernel.head.e_phentsize = 8, -ENOEXEC);
	REFUSE(kernel.head.e_entry = 0, -ENOEXEC);
	REFUSE(kernel.head.e_entry = UINT64_MAX, -ENOEXEC);
	REFUSE(kernel.segment[0].p_filesz = 0x100000, -ENOEXEC); /* past the end of the file */
	REFUSE(kernel.segment[0].p_offset = UINT64_MAX - 0xfff, -ENOEXEC);
	REFUSE(kernel.segment[0].p_memsz = 1, -ENOEXEC);      /* less than it brings */
	REFUSE(kernel.segment[0].p_paddr = 0x7000, -ENOEXEC); /* over the boot parameters */
	REFUSE(kernel.segment[0].p_paddr = UINT64_MAX - 0xfff, -ENOEXEC);
	REFUSE(kernel.segment[1].p_paddr = RAM_BYTES - 0x10, -EFBIG);
	REFUSE(kernel.segment[1].p_memsz = UINT64_C(1) << 40, -EFBIG);
#undef REFUSE
}

static uint8_t sum_of(const uint8_t *data, size_t bytes)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < bytes; i++)
		sum = (uint8_t)(sum + data[i]);
	return sum;
}

static void test_mptable(void **state)
{
	const uint8_t *pointer = at(CS_MPTABLE_GPA), *table = pointer + 16;
	uint16_t bytes, entries;

	for (unsigned vcpus = 1; vcpus <= CS_MPTABLE_VCPUS_MAX; vcpus += 23) {
		assert_int_equal(cs_mptable_write(&mem, vcpus, NULL), 0);
		assert_memory_equal(pointer, "_MP_", 4);
		assert_int_equal(sum_of(pointer, 16), 0);
		assert_memory_equal(table, "PCMP", 4);
		memcpy(&bytes, table + 4, sizeof(bytes));
		memcpy(&entries, table + 34, sizeof(entries));
		assert_int_equal(sum_of(table, bytes), 0);
		assert_int_equal(entries, vcpus + 2 + 24 + 2);
	}
	assert_int_equal(cs_mptable_write(&mem, 0, NULL), -EINVAL);
	assert_int_equal(cs_mptable_write(&mem, 255, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_loads, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kernel_file_untouched, setup, teardown),
		cmocka_unit_test_setup_teardown(test_initrd, setup, teardown),
		cmocka_unit_test_setup_teardown(test_seed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cmdline_too_long, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refuses_liars, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mptable, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Kernels, and what people take for one. */
#include <errno.h>

#include "store/kernel.h"
#include "tests/fake/kernel.h"
#include "tests/unit/scratch.h"

static unsigned char vmlinux[CS_FAKE_VMLINUX_BYTES];

/* Unpack the file (name): its result, and words that begin with the path. */
static int unpack(struct scratch *scratch, const char *name, struct cs_kernel_info *ret,
		  struct cs_err *err)
{
	char path[512];
	int fd, r;

	snprintf(path, sizeof(path), "%s/%s", scratch->path, name);
	fd = openat(scratch->fd, "out", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	*err = (struct cs_err){ 0 };
	r = cs_kernel_unpack(path, fd, ret, err);
	if (r < 0)
		assert_non_null(strstr(err->text, name));
	close(fd);
	return r;
}

static void expect_same(struct scratch *scratch)
{
	unsigned char got[CS_FAKE_VMLINUX_BYTES + 1];
	int fd = openat(scratch->fd, "out", O_RDONLY | O_CLOEXEC);

	assert_int_equal(read(fd, got, sizeof(got)), CS_FAKE_VMLINUX_BYTES);
	assert_memory_equal(got, vmlinux, CS_FAKE_VMLINUX_BYTES);
	close(fd);
}

static void test_vmlinux(void **state)
{
	struct scratch *scratch = *state;
	struct cs_kernel_info info;
	struct cs_err err;

	cs_fake_vmlinux(vmlinux, "6.12.1-clearstore");
	cs_fake_file(scratch->fd, "vmlinux", vmlinux, sizeof(vmlinux));
	assert_int_equal(unpack(scratch, "vmlinux", &info, &err), 0);
	assert_string_equal(info.release, "6.12.1-clearstore");
	assert_false(info.stock);
	expect_same(scratch);

	cs_fake_vmlinux(vmlinux, "6.12.117+deb12-cloud-amd64");
	cs_fake_file(scratch->fd, "vmlinux", vmlinux, sizeof(vmlinux));
	assert_int_equal(unpack(scratch, "vmlinux", &info, &err), 0);
	assert_string_equal(info.release, "6.12.117+deb12-cloud-amd64");
	assert_true(info.stock);
}

/* A banner over the border of two reads is found. */
static void test_banner_at_a_border(void **state)
{
	struct scratch *scratch = *state;
	struct cs_kernel_info info;
	struct cs_err err;
	int fd;

	cs_fake_vmlinux(vmlinux, "x");
	memset(vmlinux + 8000, 0, 2000);
	cs_fake_segment(vmlinux)->p_filesz = 3 << 20;
	cs_fake_segment(vmlinux)->p_memsz = 4 << 20;
	cs_fake_file(scratch->fd, "vmlinux", vmlinux, sizeof(vmlinux));
	fd = openat(scratch->fd, "vmlinux", O_WRONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, 4 << 20), 0);
	assert_int_equal(pwrite(fd, "Linux version 6.1-border x", 26, (1 << 20) - 16), 26);
	close(fd);
	assert_int_equal(unpack(scratch, "vmlinux", &info, &err), 0);
	assert_string_equal(info.release, "6.1-border");
}

static void refuse(struct scratch *scratch, const char *words)
{
	struct cs_kernel_info info = { .release = "untouched" };
	struct cs_err err;
	int r;

	cs_fake_file(scratch->fd, "kernel", vmlinux, sizeof(vmlinux));
	r = unpack(scratch, "kernel", &info, &err);
	if (r != -EINVAL || !strstr(err.text, words))
		fail_msg("wanted '%s', got %d '%s'", words, r, err.text);
	assert_string_equal(info.release, "untouched");
	cs_fake_vmlinux(vmlinux, "6.12");
}

static void test_broken_elf(void **state)
{
	struct scratch *scratch = *state;

	cs_fake_vmlinux(vmlinux, "6.12");
	cs_fake_elf(vmlinux)->e_machine = EM_AARCH64;
	refuse(scratch, "not a kernel for x86-64");
	cs_fake_elf(vmlinux)->e_ident[EI_CLASS] = ELFCLASS32;
	refuse(scratch, "not a kernel for x86-64");
	cs_fake_elf(vmlinux)->e_type = ET_DYN;
	refuse(scratch, "no kernel");
	cs_fake_elf(vmlinux)->e_phnum = 0;
	refuse(scratch, "no kernel");
	cs_fake_elf(vmlinux)->e_phnum = 65;
	refuse(scratch, "no kernel");
	cs_fake_elf(vmlinux)->e_phentsize = 32;
	refuse(scratch, "no kernel");
	cs_fake_elf(vmlinux)->e_phoff = CS_FAKE_VMLINUX_BYTES;
	refuse(scratch, "truncated");
	cs_fake_elf(vmlinux)->e_phoff = UINT64_MAX;
	refuse(scratch, "truncated");
	cs_fake_segment(vmlinux)->p_type = PT_NOTE;
	refuse(scratch, "nothing to load");
	cs_fake_segment(vmlinux)->p_filesz++;
	refuse(scratch, "truncated");
	cs_fake_segment(vmlinux)->p_offset = UINT64_MAX - 10;
	refuse(scratch, "truncated");
	cs_fake_segment(vmlinux)->p_memsz = 100;
	refuse(scratch, "impossible place");
	cs_fake_segment(vmlinux)->p_paddr = UINT64_MAX - 100;
	refuse(scratch, "impossible place");
	cs_fake_segment(vmlinux)->p_memsz = UINT64_MAX;
	refuse(scratch, "impossible place");
	memset(vmlinux + 8000, 0, 2000);
	refuse(scratch, "not Linux");
}

static void test_other_files(void **state)
{
	static const struct {
		const char *head, *words;
		size_t bytes;
	} kinds[] = {
		{ "\x1f\x8b\x08", "gzip -d", 3 },     { "\xfd\x37\x7a\x58\x5a", "xz -d", 5 },
		{ "\x28\xb5\x2f\xfd", "zstd -d", 4 }, { "#!/bin/sh\n", "not a kernel", 10 },
		{ "MZ", "not a kernel", 2 },
	};
	struct scratch *scratch = *state;
	struct cs_kernel_info info;
	struct cs_err err;
	int fd;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		memset(vmlinux, 0, sizeof(vmlinux));
		memcpy(vmlinux, kinds[i].head, kinds[i].bytes);
		refuse(scratch, kinds[i].words);
	}
	scratch_write(scratch->fd, "empty", "");
	assert_int_equal(unpack(scratch, "empty", &info, &err), -EINVAL);
	scratch_write(scratch->fd, "short", "\177ELF");
	assert_int_equal(unpack(scratch, "short", &info, &err), -EINVAL);
	assert_int_equal(unpack(scratch, "gone", &info, &err), -ENOENT);
	assert_int_equal(mkdirat(scratch->fd, "dir", 0700), 0);
	assert_int_equal(unpack(scratch, "dir", &info, &err), -EINVAL);
	/* must not be waited for */
	assert_int_equal(mkfifoat(scratch->fd, "fifo", 0600), 0);
	assert_int_equal(unpack(scratch, "fifo", &info, &err), -EINVAL);
	scratch_write(scratch->fd, "huge", "\177ELF");
	fd = openat(scratch->fd, "huge", O_WRONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, 1 << 30), 0);
	close(fd);
	assert_int_equal(unpack(scratch, "huge", &info, &err), -EFBIG);
}

/* A payload that is not compressed, as with CONFIG_KERNEL_UNCOMPRESSED; the compressed ones are
 * tests/cli/215-kernels.sh. */
static void test_bzimage(void **state)
{
	static unsigned char image[CS_FAKE_SETUP_BYTES + CS_FAKE_VMLINUX_BYTES + 4];
	struct scratch *scratch = *state;
	struct cs_kernel_info info;
	struct cs_err err;

	cs_fake_bzimage(image, CS_FAKE_VMLINUX_BYTES + 4, "6.12-from-the-head");
	cs_fake_vmlinux(vmlinux, "6.12-from-the-banner");
	memcpy(image + CS_FAKE_SETUP_BYTES, vmlinux, sizeof(vmlinux));
	cs_fake_file(scratch->fd, "bzImage", image, sizeof(image));
	assert_int_equal(unpack(scratch, "bzImage", &info, &err), 0);
	assert_string_equal(info.release, "6.12-from-the-head");
	expect_same(scratch);
	/* a head that does not say */
	cs_fake_put16(image + 0x20e, 0);
	cs_fake_file(scratch->fd, "bzImage", image, sizeof(image));
	assert_int_equal(unpack(scratch, "bzImage", &info, &err), 0);
	assert_string_equal(info.release, "6.12-from-the-banner");
	/* cut off */
	cs_fake_file(scratch->fd, "bzImage", image, sizeof(image) - 1);
	assert_int_equal(unpack(scratch, "bzImage", &info, &err), -EINVAL);
	assert_non_null(strstr(err.text, "truncated"));
	/* whole, but its ELF is not */
	cs_fake_put32(image + 0x24c, 8000);
	cs_fake_file(scratch->fd, "bzImage", image, sizeof(image));
	assert_int_equal(unpack(scratch, "bzImage", &info, &err), -EINVAL);
	assert_non_null(strstr(err.text, "truncated"));
}

static void test_hostile_head(void **state)
{
	unsigned char head[CS_FAKE_SETUP_BYTES];
	struct cs_bzimage found;
	struct cs_err err = { 0 };

	cs_fake_bzimage(head, 1000, "6.12");
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 3560, &found, NULL), 0);
	assert_int_equal(found.payload_offset, CS_FAKE_SETUP_BYTES);
	assert_int_equal(found.payload_bytes, 1000);
	assert_string_equal(found.release, "6.12");
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 3559, &found, &err), -EINVAL);
	for (size_t cut = 0; cut < 0x268; cut++)
		assert_int_equal(cs_bzimage_parse(head, cut, cut, &found, NULL), -EINVAL);
	/* numbers that wrap or lead out */
	cs_fake_put32(head + 0x248, UINT32_MAX);
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 4000, &found, NULL), -EINVAL);
	cs_fake_put32(head + 0x248, 0);
	cs_fake_put32(head + 0x24c, UINT32_MAX);
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 4000, &found, NULL), -EINVAL);
	cs_fake_put32(head + 0x24c, 0);
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 4000, &found, NULL), -EINVAL);
	cs_fake_put32(head + 0x24c, 1000);
	cs_fake_put16(head + 0x206, 0x207);
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 4000, &found, &err), -EINVAL);
	assert_non_null(strstr(err.text, "too old"));
	cs_fake_put16(head + 0x206, 0x208);
	/* a release outside of the head, or without an end, or that a terminal would obey */
	cs_fake_put16(head + 0x20e, 0xffff);
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 4000, &found, NULL), 0);
	assert_string_equal(found.release, "");
	memset(head + 0x700, '7', sizeof(head) - 0x700);
	cs_fake_put16(head + 0x20e, 0x500);
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 4000, &found, NULL), 0);
	assert_int_equal(strlen(found.release), CS_RELEASE_TEXT - 1);
	cs_fake_put16(head + 0x20e, (uint16_t)(sizeof(head) - 0x200 - 3));
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 4000, &found, NULL), 0);
	assert_string_equal(found.release, "777");
	memcpy(head + 0x700, "6.1\033[2J", 7);
	cs_fake_put16(head + 0x20e, 0x500);
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 4000, &found, NULL), 0);
	assert_string_equal(found.release, "6.1");
	memcpy(head + 0x700, "../../x", 7);
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 4000, &found, NULL), 0);
	assert_string_equal(found.release, "");
	memcpy(head + 0x700, "6/../x", 6);
	assert_int_equal(cs_bzimage_parse(head, sizeof(head), 4000, &found, NULL), 0);
	assert_string_equal(found.release, "6");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_vmlinux, scratch_make, scratch_remove),
		cmocka_unit_test_setup_teardown(test_banner_at_a_border, scratch_make,
						scratch_remove),
		cmocka_unit_test_setup_teardown(test_broken_elf, scratch_make, scratch_remove),
		cmocka_unit_test_setup_teardown(test_other_files, scratch_make, scratch_remove),
		cmocka_unit_test_setup_teardown(test_bzimage, scratch_make, scratch_remove),
		cmocka_unit_test(test_hostile_head),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

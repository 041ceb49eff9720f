/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ACPI tables as a kernel walks them: from the RSDP on, with every checksum and length. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "store/base/num.h"
#include "vmm/acpi.h"

#define RAM_BYTES (2 * CS_MIB)

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

static const struct cs_acpi_spec usual = {
	.vcpus = 2,
	.windows = 5,
	.window_gpa = 0xd0000000,
	.window_bytes = 0x1000,
	.first_irq = 5,
};

static const uint8_t *at(uint64_t gpa)
{
	assert_true(gpa >= CS_ACPI_GPA && gpa < CS_ACPI_END_GPA);
	return (const uint8_t *)mem.ram.seg[0].host + gpa;
}

static uint64_t number(const uint8_t *byte, unsigned bytes)
{
	uint64_t value = 0;

	while (bytes--)
		value = value << 8 | byte[bytes];
	return value;
}

static uint8_t sum(const uint8_t *byte, uint64_t bytes)
{
	uint8_t total = 0;

	while (bytes--)
		total = (uint8_t)(total + *byte++);
	return total;
}

/* A table with this signature, whole and right; *ret_end: gpa behind it. */
static const uint8_t *table_at(uint64_t gpa, const char *signature, uint64_t *ret_end)
{
	const uint8_t *table = at(gpa);
	const uint64_t bytes = number(table + 4, 4);

	assert_memory_equal(table, signature, 4);
	assert_true(bytes >= 36 && gpa + bytes <= CS_ACPI_END_GPA);
	assert_int_equal(sum(table, bytes), 0);
	*ret_end = gpa + bytes;
	return table;
}

struct tables {
	const uint8_t *fadt, *madt, *dsdt;
	uint64_t fadt_bytes, madt_bytes, dsdt_bytes;
};

static struct tables walk(void)
{
	const uint8_t *rsdp = at(CS_ACPI_GPA), *xsdt;
	uint64_t end, gpa;
	struct tables t;

	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(number(rsdp + 20, 4), 36);
	assert_int_equal(sum(rsdp, 36), 0);
	assert_true(rsdp[15] >= 2);

	gpa = number(rsdp + 24, 8);
	xsdt = table_at(gpa, "XSDT", &end);
	assert_int_equal(end - gpa, 36 + 2 * 8);
	gpa = number(xsdt + 36, 8);
	t.fadt = table_at(gpa, "FACP", &end);
	t.fadt_bytes = end - gpa;
	gpa = number(xsdt + 44, 8);
	t.madt = table_at(gpa, "APIC", &end);
	t.madt_bytes = end - gpa;
	gpa = number(t.fadt + 140, 8);
	t.dsdt = table_at(gpa, "DSDT", &end);
	t.dsdt_bytes = end - gpa;
	return t;
}

static void reduced_hardware(void **state)
{
	struct cs_err err = { 0 };
	struct tables t;

	assert_int_equal(cs_acpi_write(&mem, &usual, &err), 0);
	t = walk();
	assert_int_equal(t.fadt_bytes, 276);
	assert_int_equal(number(t.fadt + 112, 4) >> 20 & 1, 1);
	/* Linux probes for no 8042 (bit 1) and reads no CMOS clock (bit 5). */
	assert_int_equal(number(t.fadt + 109, 2) & (1 << 1 | 1 << 5), 1 << 5);
}

static void every_cpu_and_one_ioapic(void **state)
{
	static const unsigned counts[] = { 1, 2, CS_ACPI_VCPUS_MAX };
	struct cs_err err = { 0 };

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct cs_acpi_spec spec = usual;
		unsigned cpus = 0, ioapics = 0;
		struct tables t;

		spec.vcpus = counts[i];
		assert_int_equal(cs_acpi_write(&mem, &spec, &err), 0);
		t = walk();
		for (uint64_t o = 44; o < t.madt_bytes; o += t.madt[o + 1]) {
			assert_true(t.madt[o + 1] >= 2 && o + t.madt[o + 1] <= t.madt_bytes);
			if (t.madt[o] == 0) {
				assert_int_equal(t.madt[o + 3], cpus++);
				assert_int_equal(t.madt[o + 4] & 1, 1);
			} else if (t.madt[o] == 1) {
				assert_true(t.madt[o + 2] >= spec.vcpus);
				assert_int_equal(number(t.madt + o + 4, 4), 0xfec00000);
				ioapics++;
			}
		}
		assert_int_equal(cpus, spec.vcpus);
		assert_int_equal(ioapics, 1);
	}
}

/* The length of an AML package at (aml), and in *head the bytes it takes. */
static size_t package(const uint8_t *aml, size_t *head)
{
	*head = 1 + (aml[0] >> 6);
	if (*head == 1)
		return aml[0] & 0x3f;
	assert_int_equal(*head, 2);
	return (aml[0] & 0xf) | (size_t)aml[1] << 4;
}

static void check_window(const uint8_t *device, const struct cs_acpi_spec *spec, unsigned n)
{
	const uint8_t *resources;

	assert_memory_equal(device + 4, "\x08_HID\x0dLNRO0005", 15);
	assert_memory_equal(device + 19, "\x08_UID\x0a", 6);
	assert_int_equal(device[25], n);
	assert_memory_equal(device + 26, "\x08_CRS\x11", 6);
	/* package length, size of the buffer */
	resources = device + 26 + 6 + 3;
	assert_memory_equal(resources, "\x86\x09\x00", 3);
	assert_int_equal(number(resources + 4, 4), spec->window_gpa + n * spec->window_bytes);
	assert_int_equal(number(resources + 8, 4), spec->window_bytes);
	assert_memory_equal(resources + 12, "\x89\x06\x00\x03\x01", 5);
	assert_int_equal(number(resources + 17, 4), spec->first_irq + n);
	assert_int_equal(resources[21], 0x79);
}

static void every_window(void **state)
{
	static const unsigned counts[] = { 0, 1, 5, 10, CS_ACPI_WINDOWS_MAX };
	struct cs_err err = { 0 };

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct cs_acpi_spec spec = usual;
		char seen[CS_ACPI_WINDOWS_MAX][4];
		const uint8_t *aml, *end;
		struct tables t;
		size_t head;

		spec.windows = counts[i];
		assert_int_equal(cs_acpi_write(&mem, &spec, &err), 0);
		t = walk();
		end = t.dsdt + t.dsdt_bytes;
		aml = t.dsdt + 36;
		assert_int_equal(aml[0], 0x10);
		assert_ptr_equal(aml + 1 + package(aml + 1, &head), end);
		aml += 1 + head;
		assert_memory_equal(aml, "\\_SB_", 5);
		aml += 5;
		for (unsigned n = 0; n < spec.windows; n++) {
			const size_t bytes = package(aml + 2, &head);

			assert_memory_equal(aml, "\x5b\x82", 2);
			assert_true(aml + 2 + bytes <= end);
			memcpy(seen[n], aml + 2 + head, 4);
			for (unsigned k = 0; k < n; k++)
				assert_memory_not_equal(seen[k], seen[n], 4);
			check_window(aml + 2 + head, &spec, n);
			aml += 2 + bytes;
		}
		assert_ptr_equal(aml, end);
	}
}

static void what_does_not_fit(void **state)
{
	struct cs_err err = { 0 };
	struct cs_acpi_spec spec = usual;

	spec.vcpus = 0;
	assert_int_equal(cs_acpi_write(&mem, &spec, &err), -EINVAL);
	spec.vcpus = CS_ACPI_VCPUS_MAX + 1;
	assert_int_equal(cs_acpi_write(&mem, &spec, &err), -EINVAL);
	spec = usual;
	spec.windows = CS_ACPI_WINDOWS_MAX + 1;
	assert_int_equal(cs_acpi_write(&mem, &spec, &err), -EINVAL);
	spec = usual;
	spec.window_gpa = UINT64_C(0x100000000) - 4 * spec.window_bytes;
	assert_int_equal(cs_acpi_write(&mem, &spec, &err), -EINVAL);
	spec.windows = 4;
	assert_int_equal(cs_acpi_write(&mem, &spec, &err), 0);
	walk();
}

static void no_ram_there(void **state)
{
	struct cs_err err = { 0 };
	struct cs_mem small = mem;

	small.ram.seg[0].bytes = CS_ACPI_GPA + 100;
	assert_int_equal(cs_acpi_write(&small, &usual, &err), -EFAULT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reduced_hardware), cmocka_unit_test(every_cpu_and_one_ioapic),
		cmocka_unit_test(every_window),     cmocka_unit_test(what_does_not_fit),
		cmocka_unit_test(no_ram_there),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/acpi.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define LAPIC_GPA  0xfee00000u
#define IOAPIC_GPA 0xfec00000u

/* Where in a table's header (5.2.6) are its length and its checksum. */
enum { HEADER_LENGTH = 4, HEADER_CHECKSUM = 9 };

/* The largest is the MADT: 12 bytes of head and 8 for each CPU. */
#define TABLE_MAX 4096u

/* A table in the making: little endian, no padding, so it is put together byte by byte. */
struct table {
	uint8_t byte[TABLE_MAX];
	size_t used;
	bool full;
};

static void put(struct table *table, const void *data, size_t bytes)
{
	if (bytes > TABLE_MAX - table->used) {
		table->full = true;
		return;
	}
	memcpy(table->byte + table->used, data, bytes);
	table->used += bytes;
}

static void put_number(struct table *table, uint64_t value, size_t bytes)
{
	uint8_t le[8];

	for (size_t i = 0; i < bytes; i++)
		le[i] = (uint8_t)(value >> (8 * i));
	put(table, le, bytes);
}

static void put_zeroes(struct table *table, size_t bytes)
{
	while (bytes--)
		put_number(table, 0, 1);
}

static uint8_t checksum_of(const uint8_t *byte, size_t bytes)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < bytes; i++)
		sum = (uint8_t)(sum + byte[i]);
	return (uint8_t)-sum;
}

static void begin(struct table *table, const char *signature, unsigned revision)
{
	*table = (struct table){ .used = 0 };
	put(table, signature, 4);
	put_number(table, 0, 4); /* length, see finish() */
	put_number(table, revision, 1);
	put_number(table, 0, 1); /* checksum, see finish() */
	put(table, "CLEARS", 6);
	put(table, "MACHINE ", 8);
	put_number(table, 1, 4);
	put(table, "CLST", 4);
	put_number(table, 1, 4);
}

/* Fill in the header and write the table to *gpa, which moves behind it. */
static bool finish(struct table *table, const struct cs_mem *mem, uint64_t *gpa)
{
	for (size_t i = 0; i < 4; i++)
		table->byte[HEADER_LENGTH + i] = (uint8_t)(table->used >> (8 * i));
	table->byte[HEADER_CHECKSUM] = checksum_of(table->byte, table->used);
	if (table->full || table->used > CS_ACPI_END_GPA - *gpa ||
	    !cs_mem_write(mem, *gpa, table->byte, table->used))
		return false;
	*gpa += (table->used + 15) / 16 * 16;
	return true;
}

/* ---- DSDT: the windows, in AML (ACPI 6.3, 20.2) */

enum {
	AML_NAME = 0x08,
	AML_BYTE = 0x0a,
	AML_STRING = 0x0d,
	AML_SCOPE = 0x10,
	AML_BUFFER = 0x11,
	AML_EXTENDED = 0x5b,
	AML_DEVICE = 0x82,
};

/* Every piece of ours that holds others is longer than 63 bytes or not, as is known here: a length
 * counts itself, and takes one byte or two. */
static void put_length_1(struct table *table, size_t rest)
{
	put_number(table, 1 + rest, 1);
}

static void put_length_2(struct table *table, size_t rest)
{
	const size_t bytes = 2 + rest;

	put_number(table, 0x40 | (bytes & 0xf), 1);
	put_number(table, bytes >> 4, 1);
}

enum {
	RESOURCES_BYTES = 12 + 9 + 2,
	BUFFER_REST = 2 + RESOURCES_BYTES,
	DEVICE_REST = 4 + (5 + 10) + (5 + 2) + (5 + 2 + BUFFER_REST),
	DEVICE_BYTES = 3 + DEVICE_REST,
	SCOPE_NAME = 5,
};
_Static_assert(1 + DEVICE_REST < 64, "a length of one byte");
_Static_assert(2 + SCOPE_NAME + CS_ACPI_WINDOWS_MAX * DEVICE_BYTES < 4096, "a length of two bytes");

static void put_name(struct table *table, const char *name)
{
	put_number(table, AML_NAME, 1);
	put(table, name, 4);
}

/* 6.4.3.4 and 6.4.3.6: the window; its line, edge-triggered, active high, not shared. */
static void put_resources(struct table *table, uint64_t gpa, uint64_t bytes, unsigned irq)
{
	put(table, (const uint8_t[]){ 0x86, 9, 0, 1 }, 4);
	put_number(table, gpa, 4);
	put_number(table, bytes, 4);
	put(table, (const uint8_t[]){ 0x89, 6, 0, 3, 1 }, 5);
	put_number(table, irq, 4);
	put(table, (const uint8_t[]){ 0x79, 0 }, 2);
}

static void put_window(struct table *table, const struct cs_acpi_spec *spec, unsigned n)
{
	const char name[4] = { 'V', 'I', (char)('A' + n / 10), (char)('0' + n % 10) };

	put(table, (const uint8_t[]){ AML_EXTENDED, AML_DEVICE }, 2);
	put_length_1(table, DEVICE_REST);
	put(table, name, 4);
	put_name(table, "_HID");
	put_number(table, AML_STRING, 1);
	put(table, "LNRO0005", 9); /* drivers/virtio/virtio_mmio.c, virtio_mmio_acpi_match */
	put_name(table, "_UID");
	put_number(table, AML_BYTE, 1);
	put_number(table, n, 1);
	put_name(table, "_CRS");
	put_number(table, AML_BUFFER, 1);
	put_length_1(table, BUFFER_REST);
	put_number(table, AML_BYTE, 1);
	put_number(table, RESOURCES_BYTES, 1);
	put_resources(table, spec->window_gpa + n * spec->window_bytes, spec->window_bytes,
		      spec->first_irq + n);
}

static bool write_dsdt(const struct cs_mem *mem, const struct cs_acpi_spec *spec, uint64_t *gpa)
{
	struct table table;

	begin(&table, "DSDT", 2);
	put_number(&table, AML_SCOPE, 1);
	put_length_2(&table, SCOPE_NAME + (size_t)spec->windows * DEVICE_BYTES);
	put(&table, "\\_SB_", SCOPE_NAME);
	for (unsigned i = 0; i < spec->windows; i++)
		put_window(&table, spec, i);
	return finish(&table, mem, gpa);
}

/* ---- FADT, MADT, XSDT, RSDP */

static bool write_fadt(const struct cs_mem *mem, uint64_t dsdt, uint64_t *gpa)
{
	enum {
		NO_VGA = 1 << 2,
		NO_CMOS_CLOCK = 1 << 5,
		WBINVD = 1 << 0,
		NO_POWER_BUTTON = 1 << 4,
		NO_SLEEP_BUTTON = 1 << 5,
		REDUCED_HARDWARE = 1 << 20,
	};
	struct table table;

	begin(&table, "FACP", 6);
	put_zeroes(&table, 109 - 36);
	put_number(&table, NO_VGA | NO_CMOS_CLOCK, 2); /* no 8042 either */
	put_zeroes(&table, 1);
	put_number(&table, WBINVD | NO_POWER_BUTTON | NO_SLEEP_BUTTON | REDUCED_HARDWARE, 4);
	put_zeroes(&table, 131 - 116);
	put_number(&table, 3, 1); /* 6.3 */
	put_zeroes(&table, 8);
	put_number(&table, dsdt, 8);
	put_zeroes(&table, 276 - 148);
	return finish(&table, mem, gpa);
}

static bool write_madt(const struct cs_mem *mem, unsigned vcpus, uint64_t *gpa)
{
	enum { LAPIC = 0, IOAPIC = 1, LAPIC_NMI = 4, ENABLED = 1 };
	struct table table;

	begin(&table, "APIC", 4);
	put_number(&table, LAPIC_GPA, 4);
	put_number(&table, 0, 4); /* no 8259s beside it */
	for (unsigned i = 0; i < vcpus; i++) {
		put(&table, (const uint8_t[]){ LAPIC, 8, (uint8_t)i, (uint8_t)i }, 4);
		put_number(&table, ENABLED, 4);
	}
	put(&table, (const uint8_t[]){ IOAPIC, 12, (uint8_t)vcpus, 0 }, 4);
	put_number(&table, IOAPIC_GPA, 4);
	put_number(&table, 0, 4);                                         /* its first line */
	put(&table, (const uint8_t[]){ LAPIC_NMI, 6, 0xff, 0, 0, 1 }, 6); /* all CPUs, LINT1 */
	return finish(&table, mem, gpa);
}

static bool write_xsdt(const struct cs_mem *mem, uint64_t fadt, uint64_t madt, uint64_t *gpa)
{
	struct table table;

	begin(&table, "XSDT", 1);
	put_number(&table, fadt, 8);
	put_number(&table, madt, 8);
	return finish(&table, mem, gpa);
}

/* 5.2.5.3: no header as the others have, and two checksums. */
static bool write_rsdp(const struct cs_mem *mem, uint64_t xsdt)
{
	enum { OLD_BYTES = 20, BYTES = 36, OLD_CHECKSUM = 8, CHECKSUM = 32 };
	struct table table = { .used = 0 };

	put(&table, "RSD PTR ", 8);
	put_zeroes(&table, 1);
	put(&table, "CLEARS", 6);
	put_number(&table, 2, 1);
	put_number(&table, 0, 4);
	put_number(&table, BYTES, 4);
	put_number(&table, xsdt, 8);
	put_zeroes(&table, 4);
	table.byte[OLD_CHECKSUM] = checksum_of(table.byte, OLD_BYTES);
	table.byte[CHECKSUM] = checksum_of(table.byte, BYTES);
	return cs_mem_write(mem, CS_ACPI_GPA, table.byte, table.used);
}

int cs_acpi_write(const struct cs_mem *mem, const struct cs_acpi_spec *spec, struct cs_err *err)
{
	uint64_t gpa = CS_ACPI_GPA + 48; /* behind the RSDP */
	uint64_t dsdt, fadt, madt, xsdt;
	bool ok;

	if (!spec->vcpus || spec->vcpus > CS_ACPI_VCPUS_MAX)
		return cs_fail(err, EINVAL, "%u vCPUs: a guest has 1 to %u", spec->vcpus,
			       CS_ACPI_VCPUS_MAX);
	if (spec->windows > CS_ACPI_WINDOWS_MAX)
		return cs_fail(err, EINVAL, "%u devices: ACPI tables describe up to %u",
			       spec->windows, CS_ACPI_WINDOWS_MAX);
	if (spec->window_gpa + spec->windows * spec->window_bytes > CS_GAP_END_GPA)
		return cs_fail(err, EINVAL, "a device window ends above 4 GiB");

	dsdt = gpa;
	ok = write_dsdt(mem, spec, &gpa);
	fadt = gpa;
	ok = ok && write_fadt(mem, dsdt, &gpa);
	madt = gpa;
	ok = ok && write_madt(mem, spec->vcpus, &gpa);
	xsdt = gpa;
	ok = ok && write_xsdt(mem, fadt, madt, &gpa) && write_rsdp(mem, xsdt);
	if (!ok)
		return cs_fail(err, EFAULT, "the guest's RAM does not reach its ACPI tables");
	return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/mptable.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#define LAPIC_GPA  0xfee00000u
#define IOAPIC_GPA 0xfec00000u
#define IRQ_LINES  24

/* MP spec 1.4, 4.1 to 4.3: fixed layouts, little endian, no padding. */
struct floating_pointer {
	char signature[4];
	uint32_t table_gpa;
	uint8_t length_16, revision, checksum, feature[5];
};

struct table_head {
	char signature[4];
	uint16_t bytes;
	uint8_t revision, checksum;
	char oem[8], product[12];
	uint32_t oem_table;
	uint16_t oem_bytes, entries;
	uint32_t lapic;
	uint16_t extended_bytes;
	uint8_t extended_checksum, reserved;
};

struct entry_cpu {
	uint8_t type, apic_id, apic_version, flags;
	uint32_t signature, features, reserved[2];
};

struct entry_bus {
	uint8_t type, id;
	char name[6];
};

struct entry_ioapic {
	uint8_t type, id, version, flags;
	uint32_t gpa;
};

struct entry_interrupt {
	uint8_t type, kind;
	uint16_t flags;
	uint8_t source_bus, source_line, target_apic, target_pin;
};

_Static_assert(sizeof(struct floating_pointer) == 16 && sizeof(struct table_head) == 44 &&
		       sizeof(struct entry_cpu) == 20 && sizeof(struct entry_bus) == 8 &&
		       sizeof(struct entry_ioapic) == 8 && sizeof(struct entry_interrupt) == 8,
	       "MP spec 1.4, 4");

enum { ENTRY_CPU, ENTRY_BUS, ENTRY_IOAPIC, ENTRY_INTERRUPT, ENTRY_LOCAL_INTERRUPT };
enum { KIND_INT, KIND_NMI, KIND_SMI, KIND_EXTINT };

struct table {
	struct table_head head;
	uint8_t entries[CS_MPTABLE_VCPUS_MAX * 20 + 8 + 8 + (IRQ_LINES + 2) * 8];
	size_t used;
};

static uint8_t checksum_of(const void *data, size_t bytes, uint8_t sum)
{
	for (size_t i = 0; i < bytes; i++)
		sum = (uint8_t)(sum + ((const uint8_t *)data)[i]);
	return sum;
}

static void push(struct table *table, const void *entry, size_t bytes)
{
	memcpy(table->entries + table->used, entry, bytes);
	table->used += bytes;
	table->head.entries++;
}

static void push_interrupts(struct table *table, uint8_t ioapic_id)
{
	struct entry_interrupt entry = { .type = ENTRY_INTERRUPT,
					 .kind = KIND_INT,
					 .target_apic = ioapic_id };

	for (uint8_t line = 0; line < IRQ_LINES; line++) {
		entry.source_line = entry.target_pin = line;
		push(table, &entry, sizeof(entry));
	}
	entry = (struct entry_interrupt){ .type = ENTRY_LOCAL_INTERRUPT, .kind = KIND_EXTINT };
	push(table, &entry, sizeof(entry));
	entry = (struct entry_interrupt){ .type = ENTRY_LOCAL_INTERRUPT,
					  .kind = KIND_NMI,
					  .target_apic = 0xff,
					  .target_pin = 1 };
	push(table, &entry, sizeof(entry));
}

static void build(struct table *table, unsigned vcpus)
{
	const uint8_t ioapic_id = (uint8_t)(vcpus < 0xff ? vcpus : 0xfe);
	const struct entry_bus isa = { .type = ENTRY_BUS, .name = "ISA   " };
	const struct entry_ioapic ioapic = { .type = ENTRY_IOAPIC,
					     .id = ioapic_id,
					     .version = 0x11,
					     .flags = 1,
					     .gpa = IOAPIC_GPA };

	memcpy(table->head.signature, "PCMP", 4);
	memcpy(table->head.oem, "CLEARSTO", 8);
	memcpy(table->head.product, "MACHINE     ", 12);
	table->head.revision = 4;
	table->head.lapic = LAPIC_GPA;
	for (unsigned i = 0; i < vcpus; i++) {
		const struct entry_cpu cpu = {
			.type = ENTRY_CPU,
			.apic_id = (uint8_t)i,
			.apic_version = 0x14,
			.flags = i ? 1 : 3, /* enabled; the first boots */
			.signature = 0x600,
			.features = 0x201, /* FPU, APIC */
		};
		push(table, &cpu, sizeof(cpu));
	}
	push(table, &isa, sizeof(isa));
	push(table, &ioapic, sizeof(ioapic));
	push_interrupts(table, ioapic_id);
	table->head.bytes = (uint16_t)(sizeof(table->head) + table->used);
	table->head.checksum = (uint8_t)-checksum_of(
		table->entries, table->used, checksum_of(&table->head, sizeof(table->head), 0));
}

int cs_mptable_write(const struct cs_mem *mem, unsigned vcpus, struct cs_err *err)
{
	struct floating_pointer pointer = {
		.signature = { '_', 'M', 'P', '_' },
		.table_gpa = (uint32_t)CS_MPTABLE_GPA + sizeof(pointer),
		.length_16 = 1,
		.revision = 4,
	};
	struct table table = { .used = 0 };

	if (!vcpus || vcpus > CS_MPTABLE_VCPUS_MAX)
		return cs_fail(err, EINVAL, "%u vCPUs: a guest has 1 to %u", vcpus,
			       CS_MPTABLE_VCPUS_MAX);
	build(&table, vcpus);
	pointer.checksum = (uint8_t)-checksum_of(&pointer, sizeof(pointer), 0);
	if (!cs_mem_write(mem, CS_MPTABLE_GPA, &pointer, sizeof(pointer)) ||
	    !cs_mem_write(mem, CS_MPTABLE_GPA + sizeof(pointer), &table,
			  sizeof(table.head) + table.used))
		return cs_fail(err, EFAULT, "the guest's RAM does not reach its MP table");
	return 0;
}

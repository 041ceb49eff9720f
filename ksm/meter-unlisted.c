/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that meminfo counts nowhere. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "ksm/meter.h"
#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define PAGE           4096
#define ZONES_MAX      (4 * CS_MIB) /* some 200 bytes a CPU and zone */
#define FILE_BYTES_MAX 64
#define LISTS_MAX      (INT64_C(1) << 40) /* no CPU keeps so many pages */
#define INSTANCES_MAX  256

/* A vCPU fills a cache of 40 pages to make page tables of (KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE,
 * arch/x86/include/asm/kvm_types.h), and with shadow paging a second one for what it knows of the
 * guest's page tables (mmu_topup_memory_caches(), arch/x86/kvm/mmu/mmu.c). */
#define SPARE_PAGES 40
/* What it shares with its monitor: kvm_run, pio_data, coalesced_mmio_ring. */
#define RUN_PAGES 3

/* The number at the beginning of (text), behind blanks; a line that was cut off has none. */
static bool parse_number(const char *text, uint64_t *ret)
{
	char digits[24];
	size_t n;

	text += strspn(text, " \t");
	n = strspn(text, "0123456789");
	if (!n || n >= sizeof(digits) || (text[n] != '\n' && text[n] != ' '))
		return false;
	memcpy(digits, text, n);
	digits[n] = '\0';
	return cs_parse_u64(digits, LISTS_MAX, ret) == 0;
}

uint64_t cs_meter_cpu_lists(const char *proc)
{
	cs_auto(cs_fd_closep) int dirfd = open(proc, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cs_auto(cs_mem_freep) char *text = NULL;
	uint64_t bytes = 0, pages;

	if (dirfd < 0 || cs_read_file_at(dirfd, "zoneinfo", ZONES_MAX, &text, NULL) < 0)
		return 0;
	/* "              count:    1023", once a CPU in each zone; nothing else is called so. */
	for (const char *line = text; (line = strstr(line, " count:")) != NULL;) {
		line += strlen(" count:");
		if (parse_number(line, &pages) && bytes < UINT64_MAX / 2)
			bytes += pages * PAGE;
	}
	return bytes;
}

static uint64_t buffer_of(int dirfd, const char *folder)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char name[NAME_MAX + 64];
	uint64_t kib;

	if ((size_t)snprintf(name, sizeof(name), "%s/buffer_total_size_kb", folder) >= sizeof(name))
		return 0;
	/* One that nobody has used yet says what it would be: "7 (expanded: 1408)". */
	if (cs_read_file_at(dirfd, name, FILE_BYTES_MAX, &text, NULL) < 0 ||
	    !parse_number(text, &kib))
		return 0;
	return kib * CS_KIB;
}

uint64_t cs_meter_tracing(const char *tracing)
{
	cs_auto(cs_fd_closep) int dirfd = open(tracing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	const struct dirent *entry;
	char path[PATH_MAX], name[NAME_MAX + 16];
	unsigned instances = 0;
	uint64_t bytes;

	if (dirfd < 0)
		return 0;
	bytes = buffer_of(dirfd, ".");
	if ((size_t)snprintf(path, sizeof(path), "%s/instances", tracing) >= sizeof(path))
		return bytes;
	dir = opendir(path);
	while (dir && (entry = readdir(dir)) != NULL && instances++ < INSTANCES_MAX) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "instances/%s", entry->d_name);
		bytes += buffer_of(dirfd, name);
	}
	return bytes;
}

uint64_t cs_meter_spare(uint64_t vcpus, bool nested_paging)
{
	const uint64_t pages = RUN_PAGES + (nested_paging ? 1 : 2) * SPARE_PAGES;

	return vcpus < LISTS_MAX ? vcpus * pages * PAGE : 0;
}

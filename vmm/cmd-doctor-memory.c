/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What doctor says of memory and of what merges or wastes it. */
#include "vmm/cmd-doctor.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "store/base/num.h"
#include "vmm/cmd-common.h"

#define KSM "sys/kernel/mm/ksm/"

static void look_memory(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	uint64_t total = cs_cmd_meminfo(doctor->root_fd, "MemTotal");
	uint64_t available = cs_cmd_meminfo(doctor->root_fd, "MemAvailable");
	char all[CS_BYTES_TEXT], free_now[CS_BYTES_TEXT];

	if (!total || !available) {
		cs_finding_set(ret, CS_FINDING_WARN, NULL, "cannot read /proc/meminfo");
		return;
	}
	cs_finding_set(ret, CS_FINDING_OK, NULL,
		       "%s available of %s: %" PRIu64
		       " guests if booted cold at 38 MiB each, the number that limits are held "
		       "against",
		       cs_format_bytes(available, free_now), cs_format_bytes(total, all),
		       cs_doctor_guests(doctor));
}

/* The word in brackets: "always [madvise] never". */
static void chosen(char *text)
{
	char *open = strchr(text, '['), *close = open ? strchr(open, ']') : NULL;

	if (!close)
		return;
	*close = '\0';
	memmove(text, open + 1, strlen(open + 1) + 1);
}

static void look_ksm(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	char advisor[64] = "";
	uint64_t run;

	if (!cs_doctor_read_number(doctor, KSM "run", &run)) {
		cs_finding_set(ret, CS_FINDING_WARN, "a kernel with CONFIG_KSM",
			       "none: pages that guests wrote alike are not merged");
		return;
	}
	if (cs_doctor_read(doctor, KSM "advisor_mode", advisor, sizeof(advisor)))
		chosen(advisor);
	if (run == 1)
		cs_finding_set(ret, CS_FINDING_OK, NULL, "runs%s%s", advisor[0] ? ", advisor " : "",
			       advisor);
	else
		cs_finding_set(ret, CS_FINDING_WARN, "echo 1 > /sys/kernel/mm/ksm/run",
			       "does not run: pages that guests wrote alike are not merged");
}

static void look_pmem(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	size_t regions = cs_doctor_entries(doctor, "sys/bus/nd/devices");
	size_t dax = cs_doctor_entries(doctor, "sys/bus/dax/devices");

	if (regions || dax)
		cs_finding_set(ret, CS_FINDING_OK, NULL,
			       "persistent memory: %zu devices, %zu of them device-DAX",
			       regions + dax, dax);
	else
		cs_finding_set(ret, CS_FINDING_OK, NULL,
			       "no persistent memory: templates are shared by the page cache");
}

static void look_thp(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	char mode[64];

	if (!cs_doctor_read(doctor, "sys/kernel/mm/transparent_hugepage/enabled", mode,
			    sizeof(mode))) {
		cs_finding_set(ret, CS_FINDING_OK, NULL, "no transparent huge pages here");
		return;
	}
	chosen(mode);
	if (strcmp(mode, "always") == 0)
		cs_finding_set(ret, CS_FINDING_WARN,
			       "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
			       "always: guest memory is left out, but the monitors' own heaps and "
			       "stacks may take 2 MiB where 4 KiB would do");
	else
		cs_finding_set(ret, CS_FINDING_OK, NULL, "%s", mode);
}

/* Guest memory is mapped with MAP_NORESERVE, which mode 2 ignores (mm/mmap.c). */
static void look_overcommit(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	uint64_t mode;

	if (!cs_doctor_read_number(doctor, "proc/sys/vm/overcommit_memory", &mode))
		cs_finding_set(ret, CS_FINDING_WARN, NULL,
			       "cannot read /proc/sys/vm/overcommit_memory");
	else if (mode == 2)
		cs_finding_set(ret, CS_FINDING_WARN, "sysctl vm.overcommit_memory=0",
			       "2: all of a guest's memory counts as used, touched or not");
	else
		cs_finding_set(ret, CS_FINDING_OK, NULL, "%" PRIu64, mode);
}

const struct cs_check cs_checks_memory[] = {
	{ "memory", look_memory },
	{ "ksm", look_ksm },
	{ "pmem", look_pmem },
	{ "huge-pages", look_thp },
	{ "overcommit", look_overcommit },
	{ NULL, NULL },
};

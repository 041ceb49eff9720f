/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What doctor says of KVM and of what makes machines slow to start. */
#include "vmm/cmd-doctor.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/io.h"
#include "store/base/own.h"
#include "vmm/kvm.h"

#define MODULE "sys/module/kvm/parameters/"

static void look_kvm(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	cs_auto(cs_host_kvm_freep) struct cs_host_kvm *kvm = NULL;
	cs_auto(cs_mem_freep) char *in_root = NULL;
	const char *path = getenv("CLEARSTORE_KVM");
	struct cs_host_kvm_info info;
	struct cs_err err = { 0 };

	if (*doctor->root) {
		if (asprintf(&in_root, "%s/dev/kvm", doctor->root) < 0)
			in_root = NULL;
		path = in_root;
	}
	if (cs_host_kvm_open(path && *path ? path : "/dev/kvm", &kvm, &err) < 0) {
		cs_finding_set(ret, CS_FINDING_FAIL, NULL, "%s", err.text);
		return;
	}
	cs_host_kvm_info(kvm, &info);
	if (!info.quirks_known)
		cs_finding_set(ret, CS_FINDING_WARN, NULL,
			       "%s: the SYSCALL probe got no answer; guests may not run",
			       info.module[0] ? info.module : "usable");
	else if (!info.standard)
		cs_finding_set(ret, CS_FINDING_WARN,
			       "give templates the kernel of scripts/build-kernel",
			       "%s, up to %u vCPUs; a SYSCALL does not enter the kernel as on "
			       "hardware: a distribution's kernel will not run",
			       info.module[0] ? info.module : "usable", info.max_vcpus);
	else
		cs_finding_set(ret, CS_FINDING_OK, NULL,
			       "%s, up to %u vCPUs; any kernel runs (a SYSCALL enters as on "
			       "hardware)",
			       info.module[0] ? info.module : "usable", info.max_vcpus);
	if (info.quirks_known && !info.nested_paging) {
		size_t used = strlen(ret->text);

		snprintf(ret->text + used, sizeof(ret->text) - used, "; shadow paging");
	}
}

/* The word (flag) among the flags of the first CPU. */
static void look_nested(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char *flags, *end;

	if (cs_read_file_at(doctor->root_fd, "proc/cpuinfo", 16 << 20, &text, NULL) < 0) {
		cs_finding_set(ret, CS_FINDING_WARN, NULL, "cannot read /proc/cpuinfo");
		return;
	}
	flags = strncmp(text, "flags", 5) == 0 ? text : strstr(text, "\nflags");
	end = flags ? strchr(flags + 1, '\n') : NULL;
	if (end)
		*end = '\0';
	if (flags && strstr(flags, " hypervisor"))
		cs_finding_set(ret, CS_FINDING_OK, NULL,
			       "this host is a virtual machine itself: guests run, but start and "
			       "page slower than on bare metal");
	else
		cs_finding_set(ret, CS_FINDING_OK, NULL, "this host is no virtual machine");
}

/* Find where cgroup2 is mounted, and whether with favordynmods: lines of proc(5) mounts. */
static bool cgroup_mount(const struct cs_doctor *doctor, char where[128], bool *ret_favors)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char *rest, *line;

	if (cs_read_file_at(doctor->root_fd, "proc/self/mounts", 16 << 20, &text, NULL) < 0)
		return false;
	rest = text;
	while ((line = strsep(&rest, "\n")) != NULL) {
		const char *path, *type, *flags;

		strsep(&line, " ");
		path = line ? strsep(&line, " ") : NULL;
		type = line ? strsep(&line, " ") : NULL;
		flags = line ? strsep(&line, " ") : NULL;
		if (!flags || strcmp(type, "cgroup2") != 0)
			continue;
		snprintf(where, 128, "%s", path);
		*ret_favors = strstr(flags, "favordynmods") != NULL;
		return true;
	}
	return false;
}

/* Since Linux 6.5 KVM can be told for good that it will not be wanted (arch/x86/kvm/mmu/mmu.c,
 * set_nx_huge_pages()), as long as there is no machine. */
static bool knows_never(const struct cs_doctor *doctor)
{
	unsigned major = 0, minor = 0;
	char release[64];

	return cs_doctor_read(doctor, "proc/sys/kernel/osrelease", release, sizeof(release)) &&
	       sscanf(release, "%u.%u", &major, &minor) == 2 &&
	       (major > 6 || (major == 6 && minor >= 5));
}

/* KVM makes a thread for each machine, in the caller's cgroup, also with the mitigation off, since
 * it may be switched on later. That takes a lock whose writer waits for a grace period of RCU: 10
 * to 100 ms for each guest, one by one, unless cgroups favour changes over lookups (kernel 6.0,
 * Documentation/admin-guide/cgroup-v2). */
static void look_nx_huge_pages(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	char value[16], where[128], remedy[200];
	bool favors = false;

	if (!cs_doctor_read(doctor, MODULE "nx_huge_pages", value, sizeof(value))) {
		cs_finding_set(ret, CS_FINDING_OK, NULL, "no such setting here");
		return;
	}
	if (strcmp(value, "never") == 0) {
		cs_finding_set(ret, CS_FINDING_OK, NULL, "never: no thread for each guest");
		return;
	}
	if (value[0] != 'Y' && value[0] != '1') {
		cs_finding_set(ret, CS_FINDING_OK,
			       knows_never(doctor) ? "for thousands, while none runs, and until "
						     "this host is started again: "
						     "echo never > "
						     "/" MODULE "nx_huge_pages"
						   : NULL,
			       "off, but KVM makes a thread for each guest all the same");
		return;
	}
	if (!cgroup_mount(doctor, where, &favors)) {
		cs_finding_set(ret, CS_FINDING_OK, NULL, "on, and no cgroup2 that could stall it");
	} else if (favors) {
		cs_finding_set(ret, CS_FINDING_OK, NULL, "on, and cgroups favour changes");
	} else {
		snprintf(remedy, sizeof(remedy), "mount -o remount,favordynmods %s", where);
		cs_finding_set(ret, CS_FINDING_WARN, remedy,
			       "on: KVM makes a thread for each guest and waits for a grace period "
			       "of cgroups each time");
	}
}

static void look_halt_polling(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	uint64_t ns;

	/* It is set to 0 for each guest (KVM_CAP_HALT_POLL): nothing to mend whatever it is. */
	if (!cs_doctor_read_number(doctor, MODULE "halt_poll_ns", &ns))
		cs_finding_set(ret, CS_FINDING_OK, NULL, "no such setting here");
	else
		cs_finding_set(ret, CS_FINDING_OK, NULL,
			       "%" PRIu64 " ns on this host, switched off for guests", ns);
}

/* Without the action that kills a process the sandbox cannot be built (seccomp(2), Linux 4.14). */
static void look_seccomp(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	char actions[200];

	if (!cs_doctor_read(doctor, "proc/sys/kernel/seccomp/actions_avail", actions,
			    sizeof(actions)))
		cs_finding_set(ret, CS_FINDING_FAIL, "a kernel with CONFIG_SECCOMP_FILTER",
			       "none: monitors cannot be confined, guests will not start");
	else if (!strstr(actions, "kill_process"))
		cs_finding_set(ret, CS_FINDING_FAIL, "Linux 4.14 or newer",
			       "cannot kill a process: guests will not start");
	else
		cs_finding_set(ret, CS_FINDING_OK, NULL, "monitors are confined");
}

const struct cs_check cs_checks_kvm[] = {
	{ "kvm", look_kvm },
	{ "nested", look_nested },
	{ "nx-huge-pages", look_nx_huge_pages },
	{ "halt-polling", look_halt_polling },
	{ "seccomp", look_seccomp },
	{ NULL, NULL },
};

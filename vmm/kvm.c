/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/kvm-private.h"

/* Intel SDM, volume 2A, CPUID, leaf 1, ECX; AMD reserves bit 31 for hypervisors too. */
#define CPUID_1_ECX_TSC_DEADLINE (UINT32_C(1) << 24)
#define CPUID_1_ECX_HYPERVISOR   (UINT32_C(1) << 31)
#define MSRS_MAX                 1024

/* What KVM has, but leaves to us to tell (Documentation/virt/kvm/api.rst, KVM_GET_SUPPORTED_CPUID):
 * that there is a hypervisor, without which a guest looks for no KVM clock and has nothing to
 * measure its timers by; and the timer that a deadline is written to. */
static void declare_features(struct cs_host_kvm *kvm)
{
	const bool deadline = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;

	kvm->tsc_deadline = deadline;
	for (uint32_t i = 0; i < kvm->cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &kvm->cpuid->entries[i];

		if (entry->function == 1)
			entry->ecx |=
				CPUID_1_ECX_HYPERVISOR | (deadline ? CPUID_1_ECX_TSC_DEADLINE : 0);
	}
}

static int read_cpuid(struct cs_host_kvm *kvm, bool ask, struct cs_err *err)
{
	const size_t bytes =
		sizeof(*kvm->cpuid) + CS_CPUID_ENTRIES * sizeof(kvm->cpuid->entries[0]);

	kvm->cpuid = calloc(1, bytes);
	kvm->shown = calloc(1, bytes);
	if (!kvm->cpuid || !kvm->shown)
		return cs_fail_errno(err, ENOMEM, "kvm: cannot read the CPU description");
	kvm->cpu_features = cs_host_cpu_features();
	kvm->info.quirks_known = !ask && cs_kvm_recall(kvm);
	if (!kvm->info.quirks_known)
		kvm->cpuid->nent = CS_CPUID_ENTRIES;
	if (!kvm->info.quirks_known && ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, kvm->cpuid) < 0)
		return cs_fail_errno(err, errno, "kvm: cannot read the CPU description");
	declare_features(kvm);
	return 0;
}

/* What a vCPU's saved state is made of on this host. */
static int read_state_shape(struct cs_host_kvm *kvm, struct cs_err *err)
{
	struct kvm_msr_list *msrs;
	int bytes;

	msrs = calloc(1, sizeof(*msrs) + MSRS_MAX * sizeof(msrs->indices[0]));
	if (!msrs)
		return cs_fail_errno(err, ENOMEM, "kvm: cannot read the list of its registers");
	kvm->msrs = msrs;
	msrs->nmsrs = MSRS_MAX;
	if (ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, msrs) < 0)
		return cs_fail_errno(err, errno, "kvm: cannot read the list of its registers");

	/* KVM_GET_XSAVE2 came with Linux 5.17; before it there was one size. */
	bytes = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE) <= 0)
		kvm->xsave_bytes = 0;
	else
		kvm->xsave_bytes = bytes > (int)sizeof(struct kvm_xsave)
					   ? (uint32_t)bytes
					   : (uint32_t)sizeof(struct kvm_xsave);
	kvm->xcrs = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0;
	kvm->tsc_control = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0;
	return 0;
}

/* One of the vendor modules holds /dev/kvm; its parameter says whether paging is two-dimensional.
 */
static void read_module(struct cs_host_kvm_info *info)
{
	static const struct {
		const char *module, *parameter;
	} known[] = {
		{ "kvm_intel", "/sys/module/kvm_intel/parameters/ept" },
		{ "kvm_amd", "/sys/module/kvm_amd/parameters/npt" },
		{ "kvm_pvm", NULL },
	};
	char path[64], answer = 0;

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		cs_auto(cs_fd_closep) int fd = -1;

		snprintf(path, sizeof(path), "/sys/module/%s", known[i].module);
		if (access(path, F_OK) < 0)
			continue;
		snprintf(info->module, sizeof(info->module), "%s", known[i].module);
		if (!known[i].parameter)
			return;
		fd = open(known[i].parameter, O_RDONLY | O_CLOEXEC);
		info->nested_paging =
			fd >= 0 && read(fd, &answer, 1) == 1 && (answer == 'Y' || answer == '1');
		return;
	}
}

static int open_device(const char *path, struct cs_host_kvm *kvm, struct cs_err *err)
{
	int version;

	kvm->fd = open(path, O_RDWR | O_CLOEXEC);
	if (kvm->fd < 0 && errno == ENOENT)
		return cs_fail(err, ENOENT,
			       "%s: not there (load kvm_intel or kvm_amd, or switch virtualization "
			       "on in the "
			       "firmware; without it: scripts/testbed)",
			       path);
	if (kvm->fd < 0 && (errno == EACCES || errno == EPERM))
		return cs_fail(err, EACCES,
			       "%s: no permission (run as root, or join the group kvm)", path);
	if (kvm->fd < 0)
		return cs_fail_errno(err, errno, "cannot open %s", path);
	version = ioctl(kvm->fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return cs_fail(err, EPROTO, "%s: not a KVM device, or not of API version %d", path,
			       KVM_API_VERSION);
	return 0;
}

static int check_capabilities(struct cs_host_kvm *kvm, const char *path, struct cs_err *err)
{
	static const struct {
		int cap;
		const char *name;
	} needed[] = {
		{ KVM_CAP_IRQCHIP, "an in-kernel interrupt controller" },
		{ KVM_CAP_IRQFD, "irqfd" },
		{ KVM_CAP_IOEVENTFD, "ioeventfd" },
		{ KVM_CAP_READONLY_MEM, "read-only memory slots" },
		{ KVM_CAP_IMMEDIATE_EXIT, "immediate exit" },
	};

	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return cs_fail(err, EOPNOTSUPP,
				       "%s: this KVM lacks %s (a newer kernel has it)", path,
				       needed[i].name);
	}
	return 0;
}

/* A host that gives no answer counts as standard: the quirks only help where they are known to be
 * needed. */
static void probe(struct cs_host_kvm *kvm, bool keep)
{
	kvm->info.quirks_known = cs_kvm_probe(kvm) == 0;
	if (!kvm->info.quirks_known)
		kvm->info.standard = true;
	else if (keep)
		cs_kvm_remember(kvm);
}

int cs_host_kvm_open(const char *path, struct cs_host_kvm **ret, struct cs_err *err)
{
	cs_auto(cs_host_kvm_freep) struct cs_host_kvm *kvm = calloc(1, sizeof(*kvm));
	const bool ask = path;
	int r;

	if (!kvm)
		return cs_fail_errno(err, ENOMEM, "kvm");
	if (!path)
		path = "/dev/kvm";
	r = open_device(path, kvm, err);
	if (r < 0)
		return r;
	r = check_capabilities(kvm, path, err);
	if (r < 0)
		return r;
	r = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r < (int)sizeof(struct kvm_run))
		return cs_fail(err, EPROTO, "%s: its vCPU structure is too small", path);
	kvm->run_bytes = (size_t)r;
	r = read_cpuid(kvm, ask, err);
	if (r == 0)
		r = read_state_shape(kvm, err);
	if (r < 0)
		return r;
	r = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	kvm->info.max_vcpus = r > 0 ? (unsigned)r : 1;
	read_module(&kvm->info);
	if (!kvm->info.quirks_known)
		probe(kvm, !ask);
	if (!kvm->shown->nent)
		memcpy(kvm->shown, kvm->cpuid,
		       sizeof(*kvm->cpuid) + kvm->cpuid->nent * sizeof(kvm->cpuid->entries[0]));
	*ret = cs_steal(kvm);
	return 0;
}

void cs_host_kvm_info(const struct cs_host_kvm *kvm, struct cs_host_kvm_info *ret)
{
	*ret = kvm->info;
}

struct cs_host_kvm *cs_host_kvm_free(struct cs_host_kvm *kvm)
{
	if (!kvm)
		return NULL;
	cs_fd_closep(&kvm->fd);
	free(kvm->cpuid);
	free(kvm->shown);
	free(kvm->msrs);
	free(kvm);
	return NULL;
}

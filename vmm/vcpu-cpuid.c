/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What CPU a guest sees, and whether this host's is one that a saved guest can go on with. */
#include "vmm/vcpu-private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "store/base/own.h"

enum reg { EAX, EBX, ECX, EDX };

/* Leaves whose values depend on which CPU asks (Intel SDM, CPUID). */
static void number_leaf(const struct cs_vcpu *vcpu, struct kvm_cpuid_entry2 *leaf)
{
	switch (leaf->function) {
	case 0x1:
		leaf->ebx = (leaf->ebx & 0x00ffffff) | vcpu->id << 24;
		break;
	case 0xb:
	case 0x1f:
		leaf->edx = vcpu->id;
		break;
	case 0x8000001e:
		leaf->eax = vcpu->id;
		break;
	}
}

int cs_vcpu_set_cpuid(const struct cs_vcpu *vcpu, struct cs_err *err)
{
	const struct kvm_cpuid2 *host = vcpu->kvm->cpuid;
	const size_t bytes = sizeof(*host) + host->nent * sizeof(host->entries[0]);
	cs_auto(cs_mem_freep) struct kvm_cpuid2 *own = malloc(bytes);

	if (!own)
		return cs_fail_errno(err, ENOMEM, "vCPU %u", vcpu->id);
	memcpy(own, host, bytes);
	for (unsigned i = 0; i < own->nent; i++)
		number_leaf(vcpu, &own->entries[i]);
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, own) < 0)
		return cs_fail_errno(err, errno, "vCPU %u: KVM refuses its CPU description",
				     vcpu->id);
	return 0;
}

/* ---- does it fit */

/* Words of CPUID in which a bit is a feature: a guest that has seen one uses it. Others (sizes,
 * topology, caches) it has read at boot, and they do no harm when they differ; the model decides
 * what a kernel has patched itself for. */
static const struct {
	uint32_t function, index;
	enum reg reg;
	bool same;     /* not only no less, but just this */
	uint32_t mask; /* without the bits that KVM keeps in step with the guest's registers */
} words[] = {
	{ 0x0, 0, EBX, true, ~0u },
	{ 0x0, 0, ECX, true, ~0u },
	{ 0x0, 0, EDX, true, ~0u },
	{ 0x1, 0, EAX, true, ~0u },
	{ 0x1, 0, ECX, false, ~(1u << 3 | 1u << 27) }, /* MONITOR, OSXSAVE */
	{ 0x1, 0, EDX, false, ~(1u << 9) },            /* APIC */
	{ 0x7, 0, EBX, false, ~0u },
	{ 0x7, 0, ECX, false, ~(1u << 4) }, /* OSPKE */
	{ 0x7, 0, EDX, false, ~0u },
	{ 0x7, 1, EAX, false, ~0u },
	{ 0x7, 1, EDX, false, ~0u },
	{ 0x7, 2, EDX, false, ~0u },
	{ 0xd, 0, EAX, false, ~0u },
	{ 0xd, 0, EDX, false, ~0u },
	{ 0xd, 1, EAX, false, ~0u },
	{ 0xd, 1, ECX, false, ~0u },
	{ 0x40000001, 0, EAX, false, ~0u },
	{ 0x80000001, 0, ECX, false, ~0u },
	{ 0x80000001, 0, EDX, false, ~(1u << 9) },
	{ 0x80000007, 0, EDX, false, ~0u },
	{ 0x80000008, 0, EBX, false, ~0u },
	{ 0x80000021, 0, EAX, false, ~0u },
};

static uint32_t word_of(const struct kvm_cpuid2 *cpuid, size_t word)
{
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *leaf = &cpuid->entries[i];

		if (leaf->function != words[word].function ||
		    ((leaf->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) &&
		     leaf->index != words[word].index))
			continue;
		switch (words[word].reg) {
		case EAX:
			return leaf->eax;
		case EBX:
			return leaf->ebx;
		case ECX:
			return leaf->ecx;
		case EDX:
			return leaf->edx;
		}
	}
	return 0;
}

void cs_vcpu_check_cpuid(const struct cs_vcpu *vcpu, const struct kvm_cpuid2 *saved,
			 struct cs_stream *stream)
{
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		const uint32_t had = word_of(saved, i) & words[i].mask;
		const uint32_t has = word_of(vcpu->kvm->shown, i) & words[i].mask;

		if (words[i].same && had != has)
			cs_stream_refuse(stream, ESTALE,
					 "saved on another model of CPU (it goes on only where it "
					 "was saved, or on a host of the same kind)");
		else if (had & ~has)
			cs_stream_refuse(stream, ESTALE,
					 "the CPU it was saved on has what this host's lacks "
					 "(CPUID leaf %#x.%u, register %c, bits %#x)",
					 words[i].function, words[i].index, "abcd"[words[i].reg],
					 had & ~has);
	}
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by vcpu*.c and quirks.c. */
#pragma once

#include <pthread.h>

#include "vmm/kvm-private.h"
#include "vmm/vcpu.h"

struct cs_vcpu {
	const struct cs_host_kvm *kvm;
	unsigned id;
	int fd;
	struct kvm_run *run; /* shared with the kernel */
	struct cs_vcpu_owner owner;
	pthread_t thread;
	bool started;
	char failure[160];
};

/* Refuse the stream with -ESTALE when a guest that saw (saved) cannot go on with this host's CPU
 * (vcpu-cpuid.c). */
void cs_vcpu_check_cpuid(const struct cs_vcpu *vcpu, const struct kvm_cpuid2 *saved,
			 struct cs_stream *stream);

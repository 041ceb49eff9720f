/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A vCPU: a KVM descriptor, its run page, and the thread that runs it. It knows no machine: what it
 * cannot do itself it asks of its owner through a table. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"
#include "vmm/boot-linux.h"
#include "vmm/kvm.h"
#include "vmm/stream.h"

struct cs_vcpu;

enum cs_vcpu_end {
	CS_VCPU_ENDED,  /* asked to by cs_vcpu_kick() after quit was set */
	CS_VCPU_RESET,  /* the guest reset the machine: triple fault, or the keyboard controller's
			   reset line */
	CS_VCPU_FAILED, /* KVM cannot go on; cs_vcpu_failure() tells why */
};

/* All are called in the vCPU's thread. */
struct cs_vcpu_owner {
	/* Port and memory accesses that KVM does not serve. (data) holds (bytes) (1, 2, 4, 8) to
	 * write or to fill. */
	void (*port)(void *arg, uint16_t port, void *data, unsigned bytes, bool write);
	void (*memory)(void *arg, uint64_t gpa, void *data, unsigned bytes, bool write);
	/* Copy (bytes) from (gpa) on into (buf), or the other way to (write); false, and nothing
	 * copied: not all of them are RAM. */
	bool (*copy)(void *arg, uint64_t gpa, void *buf, size_t bytes, bool write);
	/* About to enter the guest for the first time. */
	void (*first_run)(void *arg);
	/* Kicked: do what was asked (wait while paused), and say whether to go on. (halted): this
	 * vCPU stands in HLT with interrupts off, or was never started: it will never run again
	 * unless another one starts it. */
	bool (*kicked)(void *arg, bool halted);
	/* The thread ends. */
	void (*ended)(void *arg, enum cs_vcpu_end why);
	void *arg;
};

/* Make vCPU number (id) of (vm_fd), which then wants either its CPU description or a saved state.
 * (owner) is copied. */
int cs_vcpu_create(const struct cs_host_kvm *kvm, int vm_fd, unsigned id,
		   const struct cs_vcpu_owner *owner, struct cs_vcpu **ret, struct cs_err *err);

/* The host's CPU features, numbered for this vCPU. */
int cs_vcpu_set_cpuid(const struct cs_vcpu *vcpu, struct cs_err *err);

/* Registers of the boot CPU; the others wait for it in the reset state that KVM gave them. */
int cs_vcpu_boot(struct cs_vcpu *vcpu, const struct cs_boot_entry *entry, struct cs_err *err);

/* Save all of it, from any thread while its own is parked in owner.kicked(); or load a new vCPU,
 * its CPU features included. -ESTALE, and the stream is refused, when this host's CPU or clock is
 * another. */
void cs_vcpu_state(struct cs_vcpu *vcpu, struct cs_stream *stream);

/* Have (bytes) from (gpa) on, whole pages, mapped for it as a read would. Before its thread is
 * started. -EOPNOTSUPP: this KVM does not know how; -errno. */
int cs_vcpu_prefault(const struct cs_vcpu *vcpu, uint64_t gpa, uint64_t bytes);

/* Start its thread. The signal CS_VCPU_SIGNAL must be blocked in all threads. */
int cs_vcpu_start(struct cs_vcpu *vcpu, struct cs_err *err);

/* Make it leave the guest and call owner.kicked(); from any thread. */
void cs_vcpu_kick(struct cs_vcpu *vcpu);
#define CS_VCPU_SIGNAL SIGUSR1

/* Wait for its thread to end. */
void cs_vcpu_join(struct cs_vcpu *vcpu);

/* Why it ended with CS_VCPU_FAILED, in words; after join. */
const char *cs_vcpu_failure(const struct cs_vcpu *vcpu);

struct cs_vcpu *cs_vcpu_free(struct cs_vcpu *vcpu); /* joined before, or never started */
CS_DEFINE_AUTO(cs_vcpu);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A vCPU's state: what KVM holds of it, to a stream and back. The orders matter (Linux 6.12,
 * arch/x86/kvm), and each is explained where it is kept. */
#include "vmm/vcpu-private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "store/base/own.h"

#define STATE_VERSION 1u
#define XSAVE_MAX     65536u
#define TSC_PPM       250u /* how far two measurements of one clock may lie apart */

#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6e0u
/* KVM answers a write to a wall clock register by writing the guest's memory, which the guest has
 * asked for long ago; and its system time has an older name for the same. */
#define MSR_WALL_CLOCK      0x11u
#define MSR_WALL_CLOCK_NEW  0x4b564d00u
#define MSR_SYSTEM_TIME     0x12u
#define MSR_SYSTEM_TIME_NEW 0x4b564d01u

struct state {
	uint32_t tsc_khz;
	struct kvm_mp_state mp;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu; /* on hosts without XSAVE */
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debug;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct kvm_cpuid2 *cpuid;
	struct kvm_msrs *msrs; /* TSC first, TSC deadline last */
	void *xsave;           /* of kvm->xsave_bytes */
};

static struct state *state_free(struct state *state)
{
	if (!state)
		return NULL;
	free(state->cpuid);
	free(state->msrs);
	free(state->xsave);
	free(state);
	return NULL;
}

static void state_freep(struct state **state)
{
	*state = state_free(*state);
}

static struct state *state_create(const struct cs_host_kvm *kvm)
{
	cs_auto(state_freep) struct state *state = calloc(1, sizeof(*state));

	if (!state)
		return NULL;
	state->cpuid = calloc(1, sizeof(*state->cpuid) +
					 CS_CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
	state->msrs =
		calloc(1, sizeof(*state->msrs) + kvm->msrs->nmsrs * sizeof(struct kvm_msr_entry));
	state->xsave = calloc(1, kvm->xsave_bytes + 1);
	if (!state->cpuid || !state->msrs || !state->xsave)
		return NULL;
	return cs_steal(state);
}

/* One call of KVM that must not fail. */
static void call(const struct cs_vcpu *vcpu, struct cs_stream *stream, unsigned long request,
		 void *arg, const char *what)
{
	if (cs_stream_good(stream) && ioctl(vcpu->fd, request, arg) < 0)
		cs_stream_refuse(stream, cs_stream_saves(stream) ? errno : EBADMSG,
				 "vCPU %u: KVM %s %s: %s", vcpu->id,
				 cs_stream_saves(stream) ? "does not tell" : "refuses", what,
				 strerror(errno));
}

/* ---- from KVM */

static bool is_listed(const struct kvm_msr_list *list, uint32_t index)
{
	for (uint32_t i = 0; i < list->nmsrs; i++) {
		if (list->indices[i] == index)
			return true;
	}
	return false;
}

/* Those that make up a state, in the order in which they are to be set. */
static uint32_t choose_msrs(const struct kvm_msr_list *list, struct kvm_msr_entry *entry)
{
	const bool renamed = is_listed(list, MSR_SYSTEM_TIME_NEW);
	uint32_t n = 0;

	if (is_listed(list, MSR_TSC))
		entry[n++].index = MSR_TSC;
	for (uint32_t i = 0; i < list->nmsrs; i++) {
		const uint32_t index = list->indices[i];

		if (index != MSR_TSC && index != MSR_TSC_DEADLINE && index != MSR_WALL_CLOCK &&
		    index != MSR_WALL_CLOCK_NEW && !(index == MSR_SYSTEM_TIME && renamed))
			entry[n++].index = index;
	}
	if (is_listed(list, MSR_TSC_DEADLINE))
		entry[n++].index = MSR_TSC_DEADLINE;
	return n;
}

/* As many as can be read: what this host lists and does not give is no part of a state. */
static void read_msrs(const struct cs_vcpu *vcpu, struct cs_stream *stream, struct kvm_msrs *msrs)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = { .head = { .nmsrs = 1 } };
	uint32_t kept;
	int done;

	/* KVM stops at the first that it does not give: the rest one by one. */
	msrs->nmsrs = choose_msrs(vcpu->kvm->msrs, msrs->entries);
	done = ioctl(vcpu->fd, KVM_GET_MSRS, msrs);
	kept = done > 0 ? (uint32_t)done : 0;
	for (uint32_t i = kept; i < msrs->nmsrs; i++) {
		one.entry = msrs->entries[i];
		if (ioctl(vcpu->fd, KVM_GET_MSRS, &one) == 1)
			msrs->entries[kept++] = one.entry;
	}
	msrs->nmsrs = kept;
	cs_stream_require(stream, kept > 0, "its registers");
}

/* It is another than the host's only when it was scaled for a guest from elsewhere. */
static uint32_t tsc_khz(const struct cs_vcpu *vcpu)
{
	const int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);

	return khz > 0 ? (uint32_t)khz : 0;
}

static void read_state(const struct cs_vcpu *vcpu, struct cs_stream *stream, struct state *state)
{
	const struct cs_host_kvm *kvm = vcpu->kvm;

	/* First: it makes KVM take in start-up messages that wait. */
	call(vcpu, stream, KVM_GET_MP_STATE, &state->mp, "whether it runs");
	call(vcpu, stream, KVM_GET_REGS, &state->regs, "its registers");
	call(vcpu, stream, KVM_GET_SREGS, &state->sregs, "its system registers");
	if (kvm->xsave_bytes > sizeof(struct kvm_xsave))
		call(vcpu, stream, KVM_GET_XSAVE2, state->xsave, "its vector registers");
	else if (kvm->xsave_bytes)
		call(vcpu, stream, KVM_GET_XSAVE, state->xsave, "its vector registers");
	else
		call(vcpu, stream, KVM_GET_FPU, &state->fpu, "its vector registers");
	if (kvm->xcrs)
		call(vcpu, stream, KVM_GET_XCRS, &state->xcrs, "its extended control registers");
	call(vcpu, stream, KVM_GET_DEBUGREGS, &state->debug, "its debug registers");
	/* Before the local APIC: a deadline that passes between the two is then in both, and an
	 * interrupt too many does no harm; the other way round it would be in neither. */
	if (cs_stream_good(stream))
		read_msrs(vcpu, stream, state->msrs);
	call(vcpu, stream, KVM_GET_LAPIC, &state->lapic, "its local APIC");
	/* Last: the calls above may still change them. */
	call(vcpu, stream, KVM_GET_VCPU_EVENTS, &state->events, "its pending events");
	state->cpuid->nent = CS_CPUID_ENTRIES;
	call(vcpu, stream, KVM_GET_CPUID2, state->cpuid, "its CPU description");
	state->tsc_khz = tsc_khz(vcpu);
}

/* ---- to KVM */

static void set_tsc_rate(const struct cs_vcpu *vcpu, struct cs_stream *stream, uint32_t khz)
{
	const uint64_t own = vcpu->kvm->tsc_khz;
	const uint64_t apart = own > khz ? own - khz : khz - own;

	if (apart * 1000000u <= own * TSC_PPM)
		return;
	if (!vcpu->kvm->tsc_control || ioctl(vcpu->fd, KVM_SET_TSC_KHZ, (unsigned long)khz) < 0)
		cs_stream_refuse(
			stream, ESTALE,
			"saved where the CPU's clock runs at %u kHz, here it is %u kHz and "
			"cannot be scaled",
			khz, (unsigned)own);
}

/* Registers that stand as KVM makes them need no call. */
static bool is_reset(const struct kvm_debugregs *debug)
{
	const struct kvm_debugregs reset = { .dr6 = 0xffff0ff0, .dr7 = 0x400 };

	return memcmp(debug, &reset, sizeof(reset)) == 0;
}

/* KVM stops at the first that it does not take. Some it lists and takes from nobody: nothing is
 * lost while they are zero. */
static void write_msrs(const struct cs_vcpu *vcpu, struct cs_stream *stream, struct kvm_msrs *msrs)
{
	while (cs_stream_good(stream) && msrs->nmsrs) {
		const int r = ioctl(vcpu->fd, KVM_SET_MSRS, msrs);
		const uint32_t done = r > 0 ? (uint32_t)r : 0;

		if (done >= msrs->nmsrs)
			return;
		if (msrs->entries[done].data)
			cs_stream_refuse(
				stream, ESTALE,
				"vCPU %u: this host's KVM does not take MSR %#x, which the "
				"guest had set",
				vcpu->id, msrs->entries[done].index);
		msrs->nmsrs -= done + 1;
		memmove(msrs->entries, &msrs->entries[done + 1],
			msrs->nmsrs * sizeof(msrs->entries[0]));
	}
}

/* The local APIC's deadline counts by a TSC that cannot be put back to what it was: leave the timer
 * the time that it had left. (Such a host's guests have a clock that can be put back: quirks.c.) */
static void move_deadline(const struct cs_vcpu *vcpu, struct kvm_msrs *msrs)
{
	struct kvm_msr_entry *last = msrs->nmsrs ? &msrs->entries[msrs->nmsrs - 1] : NULL;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} now = { .head = { .nmsrs = 1 }, .entry = { .index = MSR_TSC } };
	uint64_t saved, left;

	if (!last || last->index != MSR_TSC_DEADLINE || !last->data ||
	    msrs->entries[0].index != MSR_TSC || ioctl(vcpu->fd, KVM_GET_MSRS, &now) != 1)
		return;
	saved = msrs->entries[0].data;
	left = last->data > saved ? last->data - saved : 0;
	last->data = now.entry.data + left;
}

static void write_state(const struct cs_vcpu *vcpu, struct cs_stream *stream, struct state *state)
{
	/* First what the CPU is: KVM judges all that follows by it. */
	call(vcpu, stream, KVM_SET_CPUID2, state->cpuid, "its CPU description");
	if (cs_stream_good(stream))
		set_tsc_rate(vcpu, stream, state->tsc_khz);
	/* Puts the local APIC where it is, and into its mode. */
	call(vcpu, stream, KVM_SET_SREGS, &state->sregs, "its system registers");
	call(vcpu, stream, KVM_SET_REGS, &state->regs, "its registers");
	if (vcpu->kvm->xcrs && (state->xcrs.nr_xcrs != 1 || state->xcrs.xcrs[0].value != 1))
		call(vcpu, stream, KVM_SET_XCRS, &state->xcrs, "its extended control registers");
	if (vcpu->kvm->xsave_bytes)
		call(vcpu, stream, KVM_SET_XSAVE, state->xsave, "its vector registers");
	else
		call(vcpu, stream, KVM_SET_FPU, &state->fpu, "its vector registers");
	if (!is_reset(&state->debug))
		call(vcpu, stream, KVM_SET_DEBUGREGS, &state->debug, "its debug registers");
	call(vcpu, stream, KVM_SET_LAPIC, &state->lapic, "its local APIC");
	if (cs_stream_good(stream) && vcpu->kvm->tsc_fixed)
		move_deadline(vcpu, state->msrs);
	/* The TSC stands first there and its deadline last: the deadline is of the local APIC's
	 * timer, whose mode must be known, and is counted by the TSC. */
	write_msrs(vcpu, stream, state->msrs);
	call(vcpu, stream, KVM_SET_MP_STATE, &state->mp, "whether it runs");
	/* Last: KVM_SET_REGS and others drop what is pending. */
	call(vcpu, stream, KVM_SET_VCPU_EVENTS, &state->events, "its pending events");
}

/* ---- to and from the stream */

static void describe_cpuid(const struct cs_vcpu *vcpu, struct cs_stream *stream,
			   struct kvm_cpuid2 *cpuid)
{
	cs_stream_bytes(stream, "CPUID", &cpuid->nent, sizeof(cpuid->nent));
	cs_stream_require(stream, cpuid->nent <= CS_CPUID_ENTRIES, "CPUID");
	if (!cs_stream_good(stream))
		return;
	cs_stream_bytes(stream, "CPUID", cpuid->entries, cpuid->nent * sizeof(cpuid->entries[0]));
	if (!cs_stream_saves(stream) && cs_stream_good(stream))
		cs_vcpu_check_cpuid(vcpu, cpuid, stream);
}

static void describe_msrs(const struct cs_vcpu *vcpu, struct cs_stream *stream,
			  struct kvm_msrs *msrs)
{
	const struct kvm_msr_list *list = vcpu->kvm->msrs;

	cs_stream_bytes(stream, "MSRs", &msrs->nmsrs, sizeof(msrs->nmsrs));
	if (cs_stream_good(stream) && msrs->nmsrs > list->nmsrs)
		cs_stream_refuse(stream, ESTALE,
				 "saved with %u MSRs, this host's KVM has %u (another kernel?)",
				 msrs->nmsrs, list->nmsrs);
	if (!cs_stream_good(stream))
		return;
	cs_stream_bytes(stream, "MSRs", msrs->entries, msrs->nmsrs * sizeof(msrs->entries[0]));
	for (uint32_t i = 0; cs_stream_good(stream) && i < msrs->nmsrs; i++) {
		if (!is_listed(list, msrs->entries[i].index))
			cs_stream_refuse(stream, ESTALE,
					 "saved with MSR %#x, which this host's KVM does not have",
					 msrs->entries[i].index);
	}
}

static void describe_vector(const struct cs_vcpu *vcpu, struct cs_stream *stream,
			    struct state *state)
{
	uint32_t bytes = vcpu->kvm->xsave_bytes;

	cs_stream_field(stream, bytes);
	cs_stream_require(stream, bytes <= XSAVE_MAX, "vector registers");
	if (bytes != vcpu->kvm->xsave_bytes)
		cs_stream_refuse(stream, ESTALE,
				 "saved with %u bytes of vector registers, here they are %u", bytes,
				 vcpu->kvm->xsave_bytes);
	if (bytes)
		cs_stream_bytes(stream, "vector registers", state->xsave, bytes);
	else
		cs_stream_bytes(stream, "vector registers", &state->fpu, sizeof(state->fpu));
}

static void describe(const struct cs_vcpu *vcpu, struct cs_stream *stream, struct state *state)
{
	cs_stream_section(stream, "vcpu", STATE_VERSION);
	describe_cpuid(vcpu, stream, state->cpuid);
	cs_stream_field(stream, state->tsc_khz);
	cs_stream_field(stream, state->mp);
	cs_stream_field(stream, state->regs);
	cs_stream_field(stream, state->sregs);
	cs_stream_field(stream, state->xcrs);
	cs_stream_field(stream, state->debug);
	cs_stream_field(stream, state->lapic);
	cs_stream_field(stream, state->events);
	describe_vector(vcpu, stream, state);
	describe_msrs(vcpu, stream, state->msrs);
}

void cs_vcpu_state(struct cs_vcpu *vcpu, struct cs_stream *stream)
{
	cs_auto(state_freep) struct state *state = NULL;

	if (!cs_stream_good(stream))
		return;
	state = state_create(vcpu->kvm);
	if (!state) {
		cs_stream_refuse(stream, ENOMEM, "out of memory");
		return;
	}
	if (cs_stream_saves(stream))
		read_state(vcpu, stream, state);
	describe(vcpu, stream, state);
	if (!cs_stream_saves(stream))
		write_state(vcpu, stream, state);
}

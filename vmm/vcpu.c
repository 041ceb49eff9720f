/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "vmm/quirks.h"
#include "vmm/vcpu-private.h"

#define RFLAGS_IF          (1u << 9)
#define THREAD_STACK_BYTES (128 * 1024)

/* The kick signal is blocked in the thread and let through by KVM_RUN only: so a kick between two
 * runs is not lost, and no handler is needed. The kernel's sigset is eight bytes, not glibc's. */
static int set_signal_mask(int fd)
{
	struct {
		struct kvm_signal_mask head;
		uint8_t set[8];
	} mask = { .head = { .len = 8 } };
	sigset_t set;

	pthread_sigmask(SIG_BLOCK, NULL, &set);
	sigdelset(&set, CS_VCPU_SIGNAL);
	memcpy(mask.set, &set, sizeof(mask.set));
	return ioctl(fd, KVM_SET_SIGNAL_MASK, &mask) < 0 ? -errno : 0;
}

int cs_vcpu_create(const struct cs_host_kvm *kvm, int vm_fd, unsigned id,
		   const struct cs_vcpu_owner *owner, struct cs_vcpu **ret, struct cs_err *err)
{
	cs_auto(cs_vcpu_freep) struct cs_vcpu *vcpu = calloc(1, sizeof(*vcpu));

	if (!vcpu)
		return cs_fail_errno(err, ENOMEM, "vCPU %u", id);
	vcpu->kvm = kvm;
	vcpu->id = id;
	vcpu->owner = *owner;
	vcpu->fd = ioctl(vm_fd, KVM_CREATE_VCPU, (unsigned long)id);
	if (vcpu->fd < 0)
		return cs_fail_errno(err, errno, "KVM cannot make vCPU %u", id);
	vcpu->run = mmap(NULL, kvm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		vcpu->run = NULL;
		return cs_fail_errno(err, errno, "cannot map vCPU %u", id);
	}
	*ret = cs_steal(vcpu);
	return 0;
}

/* Halted for good: nothing but another vCPU's start-up message could wake it. */
static bool is_halted(const struct cs_vcpu *vcpu)
{
	struct kvm_mp_state mp;
	struct kvm_regs regs;

	if (ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp) < 0 || ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0)
		return false;
	if (mp.mp_state == KVM_MP_STATE_UNINITIALIZED || mp.mp_state == KVM_MP_STATE_INIT_RECEIVED)
		return true;
	return mp.mp_state == KVM_MP_STATE_HALTED && !(regs.rflags & RFLAGS_IF);
}

static void fail(struct cs_vcpu *vcpu, const char *what, unsigned detail)
{
	struct kvm_regs regs = { 0 };

	ioctl(vcpu->fd, KVM_GET_REGS, &regs);
	snprintf(vcpu->failure, sizeof(vcpu->failure), "vCPU %u: %s %u at rip %#llx", vcpu->id,
		 what, detail, (unsigned long long)regs.rip);
}

static void serve_ports(struct cs_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	if (run->io.direction == KVM_EXIT_IO_OUT && run->io.size == 4 && run->io.count == 1 &&
	    cs_quirks_out(vcpu, run->io.port, data))
		return;
	for (uint32_t i = 0; i < run->io.count; i++)
		vcpu->owner.port(vcpu->owner.arg, run->io.port, data + (size_t)i * run->io.size,
				 run->io.size, run->io.direction == KVM_EXIT_IO_OUT);
}

/* Do what an exit asks for; true: go on, otherwise *ret_end is set. */
static bool serve_exit(struct cs_vcpu *vcpu, enum cs_vcpu_end *ret_end)
{
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		serve_ports(vcpu);
		return true;
	case KVM_EXIT_MMIO:
		vcpu->owner.memory(vcpu->owner.arg, run->mmio.phys_addr, run->mmio.data,
				   run->mmio.len, run->mmio.is_write);
		return true;
	case KVM_EXIT_INTR:
		return true;
	case KVM_EXIT_SHUTDOWN:
	case KVM_EXIT_SYSTEM_EVENT:
		*ret_end = CS_VCPU_RESET;
		return false;
	case KVM_EXIT_INTERNAL_ERROR:
		if (cs_quirks_complete(vcpu))
			return true;
		fail(vcpu, "KVM internal error", run->internal.suberror);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		fail(vcpu, "KVM entry failure",
		     (unsigned)run->fail_entry.hardware_entry_failure_reason);
		break;
	default:
		fail(vcpu, "KVM exit", run->exit_reason);
		break;
	}
	*ret_end = CS_VCPU_FAILED;
	return false;
}

/* Take the kick off the pending set, or KVM_RUN would return at once for ever. */
static void take_signal(void)
{
	const struct timespec now = { 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, CS_VCPU_SIGNAL);
	while (sigtimedwait(&set, NULL, &now) < 0 && errno == EINTR)
		;
}

static enum cs_vcpu_end run_loop(struct cs_vcpu *vcpu)
{
	enum cs_vcpu_end why;

	vcpu->owner.first_run(vcpu->owner.arg);
	for (;;) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
			if (!serve_exit(vcpu, &why))
				return why;
			continue;
		}
		if (errno != EINTR && errno != EAGAIN) {
			fail(vcpu,
			     errno == EFAULT ? "memory that is not there (a part of the template "
					       "was cut short, or its medium is gone): errno"
					     : "KVM_RUN: errno",
			     (unsigned)errno);
			return CS_VCPU_FAILED;
		}
		take_signal();
		if (!vcpu->owner.kicked(vcpu->owner.arg, is_halted(vcpu)))
			return CS_VCPU_ENDED;
	}
}

static void *thread_main(void *arg)
{
	struct cs_vcpu *vcpu = arg;
	enum cs_vcpu_end why = CS_VCPU_FAILED;

	if (set_signal_mask(vcpu->fd) < 0)
		fail(vcpu, "signal mask: errno", (unsigned)errno);
	else
		why = run_loop(vcpu);
	vcpu->owner.ended(vcpu->owner.arg, why);
	return NULL;
}

int cs_vcpu_start(struct cs_vcpu *vcpu, struct cs_err *err)
{
	pthread_attr_t attr;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
	r = pthread_create(&vcpu->thread, &attr, thread_main, vcpu);
	pthread_attr_destroy(&attr);
	if (r)
		return cs_fail_errno(err, r, "cannot start a thread for vCPU %u", vcpu->id);
	vcpu->started = true;
	return 0;
}

void cs_vcpu_kick(struct cs_vcpu *vcpu)
{
	if (vcpu->started)
		pthread_kill(vcpu->thread, CS_VCPU_SIGNAL);
}

void cs_vcpu_join(struct cs_vcpu *vcpu)
{
	if (vcpu->started)
		pthread_join(vcpu->thread, NULL);
	vcpu->started = false;
}

const char *cs_vcpu_failure(const struct cs_vcpu *vcpu)
{
	return vcpu->failure;
}

struct cs_vcpu *cs_vcpu_free(struct cs_vcpu *vcpu)
{
	if (!vcpu)
		return NULL;
	if (vcpu->run)
		munmap(vcpu->run, vcpu->kvm->run_bytes);
	cs_fd_closep(&vcpu->fd);
	free(vcpu);
	return NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/irq.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "store/base/own.h"
#include "vmm/kvm-private.h"

#define TSS_GPA                                                                                    \
	0xfffbd000ul /* three pages that VT-x wants for real mode; in the device gap, clear of     \
			ours */

static int add_slots(int vm_fd, const struct cs_ram *ram, struct cs_err *err)
{
	for (size_t i = 0; i < ram->n; i++) {
		const struct cs_seg *seg = &ram->seg[i];
		const struct kvm_userspace_memory_region slot = {
			.slot = (uint32_t)i,
			.flags = seg->backing == CS_BACKING_SHARED ? KVM_MEM_READONLY : 0,
			.guest_phys_addr = seg->gpa,
			.memory_size = seg->bytes,
			.userspace_addr = (uintptr_t)seg->host,
		};

		if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return cs_fail_errno(
				err, errno, "KVM refuses memory segment %zu (%llu MiB at %#llx)", i,
				(unsigned long long)seg->bytes >> 20, (unsigned long long)seg->gpa);
	}
	return 0;
}

static int create_pit(int vm_fd)
{
	const struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };

	return ioctl(vm_fd, KVM_CREATE_PIT2, &pit) < 0 ? -errno : 0;
}

int cs_vm_create(const struct cs_host_kvm *kvm, const struct cs_mem *mem, int *ret_fd,
		 struct cs_err *err)
{
	struct kvm_enable_cap halt_poll = { .cap = KVM_CAP_HALT_POLL };
	cs_auto(cs_fd_closep) int fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	int r;

	if (fd < 0)
		return cs_fail_errno(err, errno, "KVM cannot make a machine");
	/* A host with thousands of idle guests has no time to spin for one that halts. */
	ioctl(fd, KVM_ENABLE_CAP, &halt_poll);
	if (ioctl(fd, KVM_SET_TSS_ADDR, TSS_GPA) < 0)
		return cs_fail_errno(err, errno, "KVM refuses the TSS address");
	r = add_slots(fd, &mem->ram, err);
	if (r < 0)
		return r;
	if (ioctl(fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return cs_fail_errno(err, errno, "KVM cannot make an interrupt controller");
	/* Its kernel thread is 30 KiB of a guest and a process id. A kernel that can set a deadline
	 * has the frequencies from kvmclock and measures nothing by it. */
	r = kvm->tsc_deadline ? 0 : create_pit(fd);
	if (r < 0)
		return cs_fail_errno(err, -r, "KVM cannot make a timer");
	*ret_fd = cs_steal_fd(&fd);
	return 0;
}

int cs_vm_bind_irq(int vm_fd, unsigned line, int fd)
{
	const struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = line };

	return ioctl(vm_fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

int cs_vm_bind_write(int vm_fd, uint64_t gpa, uint32_t value, int fd)
{
	const struct kvm_ioeventfd event = { .datamatch = value,
					     .addr = gpa,
					     .len = 4,
					     .fd = fd,
					     .flags = KVM_IOEVENTFD_FLAG_DATAMATCH };

	return ioctl(vm_fd, KVM_IOEVENTFD, &event) < 0 ? -errno : 0;
}

/* ---- state */

#define STATE_VERSION 1u

static void call(int vm_fd, struct cs_stream *stream, unsigned long request, void *arg,
		 const char *what)
{
	if (cs_stream_good(stream) && ioctl(vm_fd, request, arg) < 0)
		cs_stream_refuse(stream, cs_stream_saves(stream) ? errno : EBADMSG, "KVM %s %s: %s",
				 cs_stream_saves(stream) ? "does not tell" : "refuses", what,
				 strerror(errno));
}

/* Not every machine has one. */
static void timer_state(int vm_fd, struct cs_stream *stream)
{
	struct kvm_pit_state2 pit = { 0 };
	bool ours = ioctl(vm_fd, KVM_GET_PIT2, &pit) == 0;
	bool has = ours;

	cs_stream_flag(stream, "timer", &has);
	if (has && !ours && cs_stream_good(stream))
		ours = create_pit(vm_fd) == 0;
	if (has != ours)
		cs_stream_refuse(stream, ESTALE, "saved %s a timer (PIT), this machine has %s",
				 has ? "with" : "without", ours ? "one" : "none");
	if (!has)
		return;
	cs_stream_field(stream, pit);
	if (!cs_stream_saves(stream))
		call(vm_fd, stream, KVM_SET_PIT2, &pit, "the timer");
}

void cs_vm_state(int vm_fd, struct cs_stream *stream)
{
	static const uint32_t chips[] = { KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
					  KVM_IRQCHIP_IOAPIC };
	const bool saves = cs_stream_saves(stream);
	struct kvm_clock_data clock = { 0 };

	cs_stream_section(stream, "irqchip", STATE_VERSION);
	for (size_t i = 0; i < sizeof(chips) / sizeof(chips[0]); i++) {
		struct kvm_irqchip chip = { .chip_id = chips[i] };

		if (saves)
			call(vm_fd, stream, KVM_GET_IRQCHIP, &chip, "an interrupt controller");
		cs_stream_field(stream, chip.chip);
		if (!saves)
			call(vm_fd, stream, KVM_SET_IRQCHIP, &chip, "an interrupt controller");
	}
	if (saves)
		call(vm_fd, stream, KVM_GET_CLOCK, &clock, "the clock");
	cs_stream_field(stream, clock.clock);
	/* Without flags it goes on from what it showed, as the TSC does. */
	clock.flags = 0;
	if (!saves)
		call(vm_fd, stream, KVM_SET_CLOCK, &clock, "the clock");
	timer_state(vm_fd, stream);
}

uint64_t cs_vm_clock(int vm_fd)
{
	struct kvm_clock_data clock = { 0 };

	return ioctl(vm_fd, KVM_GET_CLOCK, &clock) == 0 ? clock.clock : 0;
}

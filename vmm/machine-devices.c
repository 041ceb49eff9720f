/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "vmm/irq.h"
#include "vmm/machine-private.h"
#include "vmm/quirks.h"
#include "vmm/virtio-devices.h"

#define CONSOLE_LOG_MAX (UINT64_C(1) << 20)
#define GUEST_CID       3 /* every guest has a host of its own: the device is in this process */

static uint64_t window_gpa(unsigned device)
{
	return CS_MMIO_GPA + device * CS_MMIO_BYTES;
}

/* Take (device) into the machine: transport, interrupt line, one notification a queue. */
static int add_device(struct cs_machine *machine, struct cs_virtio *device, struct cs_err *err)
{
	const unsigned n = machine->devices;
	struct cs_virtio_mmio_spec spec = { .device = device,
					    .mem = &machine->mem,
					    .loop = machine->loop };
	int r;

	if (n == CS_MACHINE_DEVICES || CS_IRQ_FIRST + n > CS_IRQ_LAST) {
		cs_virtio_free(device);
		return cs_fail(err, ENOSPC, "more devices than the machine has room for");
	}
	machine->irq_fd[n] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (machine->irq_fd[n] < 0) {
		r = errno;
		cs_virtio_free(device);
		return cs_fail_errno(err, r, "cannot make an interrupt");
	}
	spec.irq_fd = machine->irq_fd[n];
	r = cs_virtio_mmio_create(&spec, &machine->device[n], err);
	if (r < 0) {
		cs_fd_closep(&machine->irq_fd[n]);
		return r;
	}
	machine->devices++;

	r = cs_vm_bind_irq(machine->vm_fd, CS_IRQ_FIRST + n, machine->irq_fd[n]);
	if (r < 0)
		return cs_fail_errno(err, r, "KVM refuses interrupt line %u", CS_IRQ_FIRST + n);
	for (unsigned queue = 0; queue < cs_virtio_mmio_queues(machine->device[n]); queue++) {
		r = cs_vm_bind_write(machine->vm_fd, window_gpa(n) + CS_VIRTIO_MMIO_NOTIFY, queue,
				     cs_virtio_mmio_notify_fd(machine->device[n], queue));
		if (r < 0)
			return cs_fail_errno(err, r, "KVM refuses a notification");
	}
	return 0;
}

static int add_console(struct cs_machine *machine, struct cs_err *err)
{
	const struct cs_virtio_console_spec spec = { .log_fd = machine->spec.log_fd,
						     .log_max = CONSOLE_LOG_MAX };
	struct cs_virtio *device;
	int r;

	r = cs_virtio_console_create(&spec, &device, err);
	if (r < 0)
		return r;
	r = add_device(machine, device, err);
	if (r == 0)
		machine->console = device;
	return r;
}

static int add_root(struct cs_machine *machine, struct cs_err *err)
{
	const struct cs_ram *ram = &machine->mem.ram;
	struct cs_virtio *device;
	int r;

	if (!ram->n || ram->seg[ram->n - 1].backing != CS_BACKING_SHARED)
		return 0;
	r = cs_virtio_pmem_create(ram->seg[ram->n - 1].gpa, ram->seg[ram->n - 1].bytes, &device,
				  err);
	return r < 0 ? r : add_device(machine, device, err);
}

static int add_disk(struct cs_machine *machine, struct cs_err *err)
{
	struct cs_virtio *device;
	int r;

	if (!machine->spec.disk)
		return 0;
	r = cs_virtio_blk_create(machine->spec.disk, machine->loop, &device, err);
	return r < 0 ? r : add_device(machine, device, err);
}

static int add_rng(struct cs_machine *machine, struct cs_err *err)
{
	struct cs_virtio *device;
	int r;

	r = cs_virtio_rng_create(&device, err);
	return r < 0 ? r : add_device(machine, device, err);
}

static int add_balloon(struct cs_machine *machine, struct cs_err *err)
{
	struct cs_virtio *device;
	int r;

	r = cs_virtio_balloon_create(&device, err);
	if (r < 0)
		return r;
	r = add_device(machine, device, err);
	if (r == 0)
		machine->balloon = device;
	return r;
}

static int serve_port(void *arg, uint32_t port)
{
	struct cs_machine *machine = arg;

	return cs_agent_serve(machine->agent, port);
}

static int resume_port(void *arg, uint32_t port)
{
	struct cs_machine *machine = arg;

	return port == CS_WIRE_CONTROL_PORT ? cs_agent_resume(machine->agent) : -1;
}

static void guest_wanted(void *arg)
{
	cs_machine_rouse(arg);
}

static int add_vsock(struct cs_machine *machine, struct cs_err *err)
{
	const struct cs_virtio_vsock_spec spec = {
		.guest_cid = GUEST_CID,
		.listen_fd = machine->spec.vsock_fd,
		.path = machine->spec.vsock_path,
		.serve = serve_port,
		.resume = resume_port,
		.wanted = guest_wanted,
		.serve_arg = machine,
	};
	struct cs_virtio *device;
	int r;

	r = cs_virtio_vsock_create(&spec, machine->loop, &device, err);
	return r < 0 ? r : add_device(machine, device, err);
}

int cs_machine_add_devices(struct cs_machine *machine, struct cs_err *err)
{
	static int (*const add[])(struct cs_machine *, struct cs_err *) = {
		add_root, add_console, add_vsock, add_rng, add_balloon, add_disk,
	};
	int r;

	for (size_t i = 0; i < sizeof(add) / sizeof(add[0]); i++) {
		r = add[i](machine, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Add to (text), which has room for (bytes); *used grows past (bytes) when it does not fit. */
static void __attribute__((format(printf, 4, 5)))
append(char *text, size_t bytes, size_t *used, const char *fmt, ...)
{
	size_t room = *used < bytes ? bytes - *used : 0;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(room ? text + *used : NULL, room, fmt, ap);
	va_end(ap);
	*used += n > 0 ? (size_t)n : 0;
}

int cs_machine_cmdline(const struct cs_machine *machine, char *text, size_t bytes,
		       struct cs_err *err)
{
	const struct cs_boot *boot = machine->spec.boot;
	struct cs_host_kvm_info host;
	size_t used = 0;

	cs_host_kvm_info(machine->spec.kvm, &host);
	/* A reset is a triple fault, and so is a panic. noreplace-smp: on one CPU the kernel would
	 * take the LOCK prefixes out of its text, and so own a copy of nearly every page of it that
	 * all guests could share. lean_idle: what our own kernel does not do for a CPU that
	 * has nothing to do (guest/kernel/README.md). vm.stat_interval: counters are folded each
	 * second otherwise, which wakes a guest for as long as they move. That is also what shrinks
	 * the CPUs' lists of free pages, which are never reported: so they are kept short. Each
	 * word is compared with every parameter of the kernel: what only a distribution's kernel
	 * has (PCI, ports to look at) is told only to that. */
	append(text, bytes, &used,
	       "console=hvc0 quiet reboot=t panic=-1 tsc=reliable noreplace-smp "
	       "clearstore.lean_idle "
	       "sysctl.vm.stat_interval=600 sysctl.vm.percpu_pagelist_high_fraction=512%s%s",
	       boot->stock_kernel
		       ? " pci=off no_timer_check i8042.nokbd i8042.noaux 8250.nr_uarts=0"
		       : "",
	       cs_quirks_cmdline(&host));
	append(text, bytes, &used,
	       " root=/dev/pmem0 rootfstype=%s rootflags=%s ro rootwait "
	       "init=/sbin/clearstore-agent",
	       machine->spec.root_type,
	       strcmp(machine->spec.root_type, "ext4") == 0 ? "dax=always,noload" : "dax");
	/* By default Linux reports free blocks of 4 MiB, and not before 128 MiB are free: of 128
	 * KiB and with 4 MiB instead, a small guest gives back too (mm/page_reporting.c). */
	append(text, bytes, &used, " page_reporting.page_reporting_order=5");
	/* A stock kernel finds its windows by ACPI: it takes none from here. */
	for (unsigned i = 0; i < machine->devices && !boot->stock_kernel; i++)
		append(text, bytes, &used, " virtio_mmio.device=4K@%#llx:%u",
		       (unsigned long long)window_gpa(i), CS_IRQ_FIRST + i);
	if (boot->cmdline && *boot->cmdline)
		append(text, bytes, &used, " %s", boot->cmdline);
	if (machine->spec.append && *machine->spec.append)
		append(text, bytes, &used, " %s", machine->spec.append);
	if (used >= bytes)
		return cs_fail(
			err, E2BIG,
			"kernel command line of %zu bytes: at most %u fit (shorten --append)", used,
			CS_CMDLINE_MAX - 1);
	return 0;
}

void cs_machine_access(struct cs_machine *machine, uint64_t gpa, void *data, unsigned bytes,
		       bool write)
{
	const uint64_t offset = gpa - CS_MMIO_GPA;
	const uint64_t device = offset / CS_MMIO_BYTES;

	/* What nobody claims reads as all ones; a write to the read-only root ends here too and
	 * changes nothing. */
	if (!write)
		memset(data, 0xff, bytes);
	if (gpa < CS_MMIO_GPA || device >= machine->devices)
		return;
	pthread_mutex_lock(&machine->lock);
	cs_virtio_mmio_access(machine->device[device], offset % CS_MMIO_BYTES, data, bytes, write);
	pthread_mutex_unlock(&machine->lock);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/machine.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "vmm/acpi.h"
#include "vmm/boot-linux.h"
#include "vmm/irq.h"
#include "vmm/machine-private.h"
#include "vmm/mptable.h"
#include "vmm/ping.h"
#include "vmm/quirks.h"
#include "vmm/snapshot-memory.h"

#define HALT_CHECK_MS 100

#define PORT_KEYBOARD_COMMAND 0x64
#define KEYBOARD_RESET        0xfe

void cs_machine_end(struct cs_machine *machine, enum cs_stop why)
{
	if (machine->ended)
		return;
	machine->ended = true;
	machine->why = why;
	cs_loop_stop(machine->loop);
}

void cs_machine_kick(struct cs_machine *machine)
{
	for (unsigned i = 0; i < machine->spec.vcpus; i++)
		cs_vcpu_kick(machine->vcpu[i].vcpu);
}

void cs_machine_park(struct cs_machine *machine)
{
	machine->parking = true;
	cs_machine_kick(machine);
	for (unsigned i = 0; i < machine->spec.vcpus; i++) {
		while (!machine->vcpu[i].parked && !machine->ended)
			pthread_cond_wait(&machine->one_parked, &machine->lock);
	}
}

void cs_machine_unpark(struct cs_machine *machine)
{
	machine->parking = false;
	pthread_cond_broadcast(&machine->unpaused);
}

/* ---- what a vCPU asks of its machine, in its own thread ----------------------------------------
 */

static void vcpu_memory(void *arg, uint64_t gpa, void *data, unsigned bytes, bool write)
{
	struct cs_machine_vcpu *vcpu = arg;

	cs_machine_access(vcpu->machine, gpa, data, bytes, write);
}

static bool vcpu_copy(void *arg, uint64_t gpa, void *buf, size_t bytes, bool write)
{
	const struct cs_machine_vcpu *vcpu = arg;

	return write ? cs_mem_write(&vcpu->machine->mem, gpa, buf, bytes)
		     : cs_mem_read(&vcpu->machine->mem, gpa, buf, bytes);
}

static void vcpu_port(void *arg, uint16_t port, void *data, unsigned bytes, bool write)
{
	struct cs_machine_vcpu *vcpu = arg;
	struct cs_machine *machine = vcpu->machine;
	uint8_t *byte = data;

	if (!write)
		memset(data, 0xff, bytes);
	if (bytes != 1)
		return;
	pthread_mutex_lock(&machine->lock);
	if (port >= CS_SERIAL_PORT && port < CS_SERIAL_PORT + CS_SERIAL_PORTS) {
		if (write)
			cs_serial_write(&machine->serial, port - CS_SERIAL_PORT, *byte);
		else
			*byte = cs_serial_read(&machine->serial, port - CS_SERIAL_PORT);
	} else if (port == PORT_KEYBOARD_COMMAND) {
		/* No keyboard controller but its reset line; its status reads as "ready". */
		if (!write)
			*byte = 0;
		else if (*byte == KEYBOARD_RESET)
			cs_machine_end(machine,
				       machine->agent_gone ? CS_STOP_REBOOT : CS_STOP_CRASH);
	}
	pthread_mutex_unlock(&machine->lock);
}

static void vcpu_first_run(void *arg)
{
	struct cs_machine_vcpu *vcpu = arg;
	struct cs_machine *machine = vcpu->machine;

	pthread_mutex_lock(&machine->lock);
	while (machine->held && !machine->quit)
		pthread_cond_wait(&machine->unpaused, &machine->lock);
	pthread_mutex_unlock(&machine->lock);
}

static bool vcpu_kicked(void *arg, bool halted)
{
	struct cs_machine_vcpu *vcpu = arg;
	struct cs_machine *machine = vcpu->machine;
	bool go_on;

	pthread_mutex_lock(&machine->lock);
	vcpu->halted = halted;
	vcpu->parked = true;
	pthread_cond_signal(&machine->one_parked);
	while ((machine->paused || machine->parking) && !machine->quit)
		pthread_cond_wait(&machine->unpaused, &machine->lock);
	vcpu->parked = false;
	go_on = !machine->quit;
	pthread_mutex_unlock(&machine->lock);
	return go_on;
}

static void vcpu_ended(void *arg, enum cs_vcpu_end why)
{
	struct cs_machine_vcpu *vcpu = arg;
	struct cs_machine *machine = vcpu->machine;

	pthread_mutex_lock(&machine->lock);
	if (why == CS_VCPU_FAILED && !machine->ended)
		snprintf(machine->failure, sizeof(machine->failure), "%s",
			 cs_vcpu_failure(vcpu->vcpu));
	/* A reset by a guest whose agent has said goodbye is a reboot; out of the blue it is a
	 * panic. */
	if (why == CS_VCPU_RESET)
		cs_machine_end(machine, machine->agent_gone ? CS_STOP_REBOOT : CS_STOP_CRASH);
	else if (why == CS_VCPU_FAILED)
		cs_machine_end(machine, CS_STOP_CRASH);
	pthread_cond_signal(&machine->one_parked); /* who waits for it looks whether it ended */
	pthread_mutex_unlock(&machine->lock);
}

/* ---- in the loop -------------------------------------------------------------------------------
 */

/* Without ACPI nothing tells that a guest has powered off: its CPUs then stand in HLT with
 * interrupts off. While the agent is gone, look: judge what the last kick found, then kick again.
 */
static void halt_check(void *arg, uint32_t events)
{
	struct cs_machine *machine = arg;
	bool halted = !machine->paused;

	for (unsigned i = 0; i < machine->spec.vcpus; i++) {
		halted = halted && machine->vcpu[i].halted;
		machine->vcpu[i].halted = false;
	}
	if (halted) {
		cs_machine_end(machine, CS_STOP_POWEROFF);
		return;
	}
	cs_machine_kick(machine);
	cs_timer_set(machine->halt_timer, HALT_CHECK_MS);
}

static void stop_late(void *arg, uint32_t events)
{
	cs_machine_end(arg, CS_STOP_REQUEST);
}

static void on_signal(void *arg, uint32_t events)
{
	cs_machine_end(arg, CS_STOP_REQUEST);
}

static int add_timers(struct cs_machine *machine, struct cs_err *err)
{
	sigset_t set;
	int r;

	/* One set for all threads that come later: SIGTERM ends the machine by its descriptor,
	 * kicks are KVM_RUN's alone. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	machine->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (machine->signal_fd < 0)
		return cs_fail_errno(err, errno, "cannot take signals");
	sigaddset(&set, CS_VCPU_SIGNAL);
	sigaddset(&set, SIGPIPE);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	r = cs_loop_add(machine->loop, machine->signal_fd, EPOLLIN, on_signal, machine,
			&machine->signal_watch);
	if (r == 0)
		r = cs_timer_create(machine->loop, halt_check, machine, &machine->halt_timer);
	if (r == 0)
		r = cs_timer_create(machine->loop, stop_late, machine, &machine->stop_timer);
	return r < 0 ? cs_fail_errno(err, r, "cannot make the machine's timers") : 0;
}

/* ---- making, running, ending -------------------------------------------------------------------
 */

static int check_spec(const struct cs_machine_spec *spec, struct cs_err *err)
{
	struct cs_host_kvm_info host;

	cs_host_kvm_info(spec->kvm, &host);
	if (!spec->vcpus || spec->vcpus > host.max_vcpus || spec->vcpus > CS_MPTABLE_VCPUS_MAX)
		return cs_fail(err, EINVAL, "%u vCPUs: this host gives a guest 1 to %u",
			       spec->vcpus,
			       host.max_vcpus < CS_MPTABLE_VCPUS_MAX ? host.max_vcpus
								     : CS_MPTABLE_VCPUS_MAX);
	if (spec->boot->stock_kernel && !cs_quirks_stock_kernel_works(&host))
		return cs_fail(err, EOPNOTSUPP,
			       "its kernel is a distribution's own, which this host's KVM cannot "
			       "run (add the template with "
			       "the kernel of scripts/build-kernel)");
	return 0;
}

static int add_vcpus(struct cs_machine *machine, struct cs_err *err)
{
	struct cs_vcpu_owner owner = {
		.port = vcpu_port,
		.memory = vcpu_memory,
		.copy = vcpu_copy,
		.first_run = vcpu_first_run,
		.kicked = vcpu_kicked,
		.ended = vcpu_ended,
	};
	int r;

	machine->vcpu = calloc(machine->spec.vcpus, sizeof(machine->vcpu[0]));
	if (!machine->vcpu)
		return cs_fail_errno(err, ENOMEM, "%u vCPUs", machine->spec.vcpus);
	for (unsigned i = 0; i < machine->spec.vcpus; i++) {
		machine->vcpu[i].machine = machine;
		owner.arg = &machine->vcpu[i];
		r = cs_vcpu_create(machine->spec.kvm, machine->vm_fd, i, &owner,
				   &machine->vcpu[i].vcpu, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* How the guest learns of its CPUs and interrupt lines, and a stock kernel also of its devices. */
static int describe(const struct cs_machine *machine, struct cs_err *err)
{
	const struct cs_acpi_spec acpi = {
		.vcpus = machine->spec.vcpus,
		.windows = machine->devices,
		.window_gpa = CS_MMIO_GPA,
		.window_bytes = CS_MMIO_BYTES,
		.first_irq = CS_IRQ_FIRST,
	};

	if (machine->spec.boot->stock_kernel)
		return cs_acpi_write(&machine->mem, &acpi, err);
	return cs_mptable_write(&machine->mem, machine->spec.vcpus, err);
}

static int boot(struct cs_machine *machine, struct cs_err *err)
{
	char cmdline[CS_CMDLINE_MAX];
	struct cs_boot_entry entry;
	int r;

	r = cs_machine_cmdline(machine, cmdline, sizeof(cmdline), err);
	if (r < 0)
		return r;
	r = cs_boot_linux_load(&machine->mem, machine->spec.boot, cmdline, &entry, err);
	if (r < 0)
		return r;
	memcpy(machine->file, entry.file, sizeof(machine->file));
	r = describe(machine, err);
	for (unsigned i = 0; i < machine->spec.vcpus && r == 0; i++)
		r = cs_vcpu_set_cpuid(machine->vcpu[i].vcpu, err);
	if (r < 0)
		return r;
	return cs_vcpu_boot(machine->vcpu[0].vcpu, &entry, err);
}

static int boot_or_restore(struct cs_machine *machine, struct cs_err *err)
{
	/* What is restored may be saved again. */
	machine->pagemap_fd = cs_pagemap_open();
	if (machine->spec.later)
		return cs_machine_read_state(machine, err);
	return machine->spec.boot->state_fd >= 0 ? cs_machine_restore(machine, err)
						 : boot(machine, err);
}

static int start_vcpus(struct cs_machine *machine, struct cs_err *err)
{
	int r = 0;

	for (unsigned i = 0; !machine->started && i < machine->spec.vcpus && r == 0; i++)
		r = cs_vcpu_start(machine->vcpu[i].vcpu, err);
	machine->started = true;
	return r;
}

static int prefault(const struct cs_seg *seg, uint64_t offset, uint64_t bytes, void *arg)
{
	const struct cs_vcpu *vcpu = arg;

	return cs_vcpu_prefault(vcpu, seg->gpa + offset, bytes);
}

void cs_machine_prefault(const struct cs_machine *machine, const struct cs_page_range range[],
			 size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = cs_ram_each(&machine->mem.ram, range[i].first,
				(uint64_t)range[i].first + range[i].pages, prefault,
				machine->vcpu[0].vcpu);
}

/* Its vCPUs have set out. Not in one of their threads: to wake who waits for it takes up to 0.3 ms
 * where CPUs are a host's threads, and the guest need not wait for that. */
static void say_running(struct cs_machine *machine)
{
	if (machine->event_fd >= 0 && write(machine->event_fd, "R", 1) != 1)
		cs_fd_closep(&machine->event_fd); /* nobody waits any more */
}

int cs_machine_start_held(struct cs_machine *machine, struct cs_err *err)
{
	machine->held = true;
	return start_vcpus(machine, err);
}

int cs_machine_go_on(struct cs_machine *machine, int event_fd, struct cs_err *err)
{
	int r;

	/* The vCPUs' threads stand still, and the loop does not run yet. */
	cs_fd_closep(&machine->event_fd);
	machine->event_fd = event_fd;
	r = cs_machine_restore(machine, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&machine->lock);
	machine->held = false;
	pthread_mutex_unlock(&machine->lock);
	pthread_cond_broadcast(&machine->unpaused);
	say_running(machine);
	return 0;
}

static struct cs_machine *new_machine(const struct cs_machine_spec *spec)
{
	struct cs_machine *machine = calloc(1, sizeof(*machine));

	if (!machine)
		return NULL;
	machine->spec = *spec;
	machine->mem.ram = *spec->ram;
	machine->vm_fd = machine->signal_fd = machine->pagemap_fd = -1;
	machine->event_fd = spec->event_fd;
	machine->turn_fd = spec->turn_fd;
	machine->over_fd = spec->over_fd;
	machine->serial.log_fd = spec->log_fd;
	machine->status = -1;
	for (unsigned i = 0; i < CS_MACHINE_DEVICES; i++)
		machine->irq_fd[i] = -1;
	pthread_mutex_init(&machine->lock, NULL);
	pthread_cond_init(&machine->unpaused, NULL);
	pthread_cond_init(&machine->one_parked, NULL);
	return machine;
}

int cs_machine_create(const struct cs_machine_spec *spec, struct cs_machine **ret,
		      struct cs_err *err)
{
	static int (*const step[])(struct cs_machine *, struct cs_err *) = {
		add_timers, cs_machine_add_services, cs_machine_add_devices,
		add_vcpus,  boot_or_restore,
	};
	cs_auto(cs_machine_freep) struct cs_machine *machine = NULL;
	int r;

	r = check_spec(spec, err);
	if (r < 0)
		return r;
	machine = new_machine(spec);
	if (!machine)
		return cs_fail_errno(err, ENOMEM, "machine");
	r = cs_vm_create(spec->kvm, &machine->mem, &machine->vm_fd, err);
	if (r < 0)
		return r;
	r = cs_loop_create(&machine->lock, &machine->loop, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(step) / sizeof(step[0]); i++) {
		r = step[i](machine, err);
		if (r < 0)
			return r;
	}
	*ret = cs_steal(machine);
	return 0;
}

static void join_vcpus(struct cs_machine *machine)
{
	pthread_mutex_lock(&machine->lock);
	machine->quit = true;
	pthread_cond_broadcast(&machine->unpaused);
	pthread_mutex_unlock(&machine->lock);
	for (unsigned i = 0; machine->vcpu && i < machine->spec.vcpus; i++) {
		if (machine->vcpu[i].vcpu) {
			cs_vcpu_kick(machine->vcpu[i].vcpu);
			cs_vcpu_join(machine->vcpu[i].vcpu);
		}
	}
}

int cs_machine_run(struct cs_machine *machine, enum cs_stop *ret, int *ret_status,
		   struct cs_err *err)
{
	const bool here = !machine->started;
	int r = start_vcpus(machine, err);

	if (r == 0 && here)
		say_running(machine);
	/* What the way here took and gave back is dirty memory that each guest would keep. While
	 * the first vCPU sets out. */
	malloc_trim(0);
	pthread_mutex_lock(&machine->lock);
	if (r == 0)
		r = cs_machine_await_turn(machine, err);
	pthread_mutex_unlock(&machine->lock);
	if (r == 0)
		r = cs_loop_run(machine->loop, err);
	join_vcpus(machine);
	if (r < 0)
		return r;
	if (machine->why == CS_STOP_CRASH && machine->failure[0])
		cs_fail(err, EIO, "%s", machine->failure);
	*ret = machine->why;
	*ret_status = machine->status;
	return 0;
}

void cs_machine_stop(struct cs_machine *machine)
{
	pthread_mutex_lock(&machine->lock);
	cs_machine_end(machine, CS_STOP_REQUEST);
	pthread_mutex_unlock(&machine->lock);
}

struct cs_machine *cs_machine_free(struct cs_machine *machine)
{
	if (!machine)
		return NULL;
	join_vcpus(machine);
	for (unsigned i = 0; machine->vcpu && i < machine->spec.vcpus; i++)
		cs_vcpu_free(machine->vcpu[i].vcpu);
	free(machine->vcpu);
	for (unsigned i = 0; i < machine->devices; i++)
		cs_virtio_mmio_free(machine->device[i]);
	for (unsigned i = 0; i < CS_MACHINE_DEVICES; i++)
		cs_fd_closep(&machine->irq_fd[i]);
	cs_control_free(machine->control);
	cs_snapshot_free(machine->snapshot);
	cs_fold_free(machine->fold);
	cs_pings_free(machine->pings);
	cs_agent_free(machine->agent);
	cs_timer_free(machine->halt_timer);
	cs_timer_free(machine->stop_timer);
	cs_watch_free(machine->signal_watch);
	cs_watch_free(machine->turn_watch);
	cs_timer_free(machine->turn_timer);
	cs_fd_closep(&machine->signal_fd);
	cs_loop_free(machine->loop);
	cs_fd_closep(&machine->vm_fd);
	cs_fd_closep(&machine->event_fd);
	cs_fd_closep(&machine->turn_fd);
	cs_fd_closep(&machine->over_fd);
	cs_fd_closep(&machine->pagemap_fd);
	free(machine->state);
	pthread_cond_destroy(&machine->unpaused);
	pthread_cond_destroy(&machine->one_parked);
	pthread_mutex_destroy(&machine->lock);
	free(machine);
	return NULL;
}

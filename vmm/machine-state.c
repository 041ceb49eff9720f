/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a machine's state consists of, in order, and a machine that goes on from one. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "store/base/io.h"
#include "vmm/irq.h"
#include "vmm/machine-private.h"
#include "vmm/snapshot-delta.h"
#include "vmm/snapshot.h"

#define STATE_VERSION   2u /* 2: there is a balloon */
#define MACHINE_VERSION 3u /* 3: the protocol that the agent speaks */

/* ---- the machine's shape */

static void describe_cpus(const struct cs_machine *machine, struct cs_stream *stream)
{
	uint32_t vcpus = machine->spec.vcpus;
	struct cs_host_kvm_info host;
	bool standard;

	cs_host_kvm_info(machine->spec.kvm, &host);
	standard = host.standard;
	cs_stream_field(stream, vcpus);
	cs_stream_flag(stream, "kind of KVM", &standard);
	if (vcpus != machine->spec.vcpus)
		cs_stream_refuse(stream, ESTALE, "saved with %u vCPUs, this machine has %u", vcpus,
				 machine->spec.vcpus);
	/* The guest's kernel was told at boot what it must do without. */
	if (standard != host.standard)
		cs_stream_refuse(stream, ESTALE, "saved on a host with %s KVM, this one has %s",
				 standard ? "a standard" : "a paravirtual",
				 host.standard ? "a standard one" : "a paravirtual one");
}

/* The agent in the saved memory is who it was: it can only be told who it is now in words it knows.
 */
static void describe_agent(const struct cs_machine *machine, struct cs_stream *stream)
{
	uint32_t protocol = cs_agent_version(machine->agent);

	cs_stream_field(stream, protocol);
	if (protocol < CS_WIRE_OLDEST_SAVED || protocol > CS_WIRE_VERSION)
		cs_stream_refuse(stream, ESTALE,
				 "saved with an agent that speaks version %u of the protocol, this "
				 "clearstore speaks %u (template warm makes it anew)",
				 protocol, CS_WIRE_VERSION);
	else
		cs_agent_expect(machine->agent, protocol);
}

static void describe_segment(const struct cs_seg *seg, size_t i, struct cs_stream *stream)
{
	uint64_t gpa = seg->gpa, bytes = seg->bytes;
	bool root = seg->backing == CS_BACKING_SHARED;

	cs_stream_field(stream, gpa);
	cs_stream_field(stream, bytes);
	cs_stream_flag(stream, "root", &root);
	if (gpa != seg->gpa || bytes != seg->bytes || root != (seg->backing == CS_BACKING_SHARED))
		cs_stream_refuse(stream, ESTALE,
				 "saved with %llu KiB of %s at %#llx, here segment %zu is %llu KiB "
				 "of %s at %#llx",
				 (unsigned long long)bytes >> 10, root ? "root" : "memory",
				 (unsigned long long)gpa, i, (unsigned long long)seg->bytes >> 10,
				 seg->backing == CS_BACKING_SHARED ? "root" : "memory",
				 (unsigned long long)seg->gpa);
}

static void describe_shape(const struct cs_machine *machine, struct cs_stream *stream)
{
	const struct cs_ram *ram = &machine->mem.ram;
	uint32_t segments = (uint32_t)ram->n, devices = machine->devices;

	cs_stream_section(stream, "machine", MACHINE_VERSION);
	describe_cpus(machine, stream);
	describe_agent(machine, stream);
	cs_stream_field(stream, segments);
	if (segments != ram->n)
		cs_stream_refuse(stream, ESTALE,
				 "saved with %u segments of memory, this machine has %zu", segments,
				 ram->n);
	for (size_t i = 0; i < ram->n; i++)
		describe_segment(&ram->seg[i], i, stream);
	cs_stream_field(stream, devices);
	if (devices != machine->devices)
		cs_stream_refuse(stream, ESTALE,
				 "saved with %u devices, this machine has %u (with and without a "
				 "disk?)",
				 devices, machine->devices);
	for (unsigned i = 0; i < machine->devices; i++) {
		uint32_t id = cs_virtio_mmio_id(machine->device[i]);

		cs_stream_field(stream, id);
		if (id != cs_virtio_mmio_id(machine->device[i]))
			cs_stream_refuse(stream, ESTALE,
					 "saved with virtio device %u where this machine has %s",
					 id, cs_virtio_mmio_name(machine->device[i]));
	}
}

void cs_machine_core_state(struct cs_machine *machine, struct cs_stream *stream)
{
	describe_shape(machine, stream);
	for (unsigned i = 0; i < machine->spec.vcpus; i++)
		cs_vcpu_state(machine->vcpu[i].vcpu, stream);
	cs_vm_state(machine->vm_fd, stream);
}

void cs_machine_device_state(struct cs_machine *machine, struct cs_stream *stream)
{
	cs_stream_section(stream, "serial", STATE_VERSION);
	cs_serial_state(&machine->serial, stream);
	for (unsigned i = 0; i < machine->devices; i++)
		cs_virtio_mmio_state(machine->device[i], stream);
}

void cs_machine_part(struct cs_machine *machine, cs_virtio_touch_fn touch, void *arg)
{
	for (unsigned i = 0; i < machine->devices; i++)
		cs_virtio_mmio_part(machine->device[i], touch, arg);
}

/* ---- loading */

int cs_machine_load(struct cs_machine *machine, const void *data, size_t bytes, struct cs_err *err)
{
	cs_auto(cs_stream_freep) struct cs_stream *stream = cs_stream_open(data, bytes);

	if (!stream)
		return cs_fail_errno(err, ENOMEM, "cannot load its state");
	cs_machine_core_state(machine, stream);
	cs_machine_device_state(machine, stream);
	return cs_stream_end(stream, err);
}

int cs_machine_read_state(struct cs_machine *machine, struct cs_err *err)
{
	const int fd = machine->spec.boot->state_fd;
	cs_auto(cs_mem_freep) void *data = NULL;
	struct stat st;
	size_t bytes;
	int r;

	if (fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "cannot read its state");
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || (uint64_t)st.st_size > CS_STREAM_BYTES_MAX)
		return cs_fail(err, EBADMSG, "state: broken: not the size of a machine's state");
	bytes = (size_t)st.st_size;
	data = malloc(bytes);
	if (!data)
		return cs_fail_errno(err, ENOMEM, "cannot read its state");
	r = cs_pread_full(fd, data, bytes, 0);
	if (r < 0)
		return cs_fail_errno(err, r, "cannot read its state");
	r = cs_stream_check(data, bytes, err);
	if (r < 0)
		return r;
	machine->state = cs_steal(data);
	machine->state_bytes = bytes;
	return 0;
}

int cs_machine_restore(struct cs_machine *machine, struct cs_err *err)
{
	const struct cs_boot *boot = machine->spec.boot;
	int r;

	r = boot->delta_fd >= 0 ? cs_delta_read(&machine->mem.ram, boot->delta_fd, err) : 0;
	if (r == 0 && !machine->state)
		r = cs_machine_read_state(machine, err);
	if (r == 0)
		r = cs_machine_load(machine, machine->state, machine->state_bytes, err);
	free(machine->state);
	machine->state = NULL;
	return r;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A machine that is to go on from bytes that somebody else has written: any bytes, or an honest
 * state in which some were changed. KVM takes whatever it is given (ioctl is wrapped at link time).
 * What must hold: words or a machine, and what devices then do stays inside the guest. */
#include <errno.h>
#include <linux/kvm.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store/base/io.h"
#include "tests/fake/kernel.h"
#include "tests/fuzz/fuzz.h"
#include "vmm/irq.h"
#include "vmm/kvm-private.h"
#include "vmm/machine-private.h"

#define RAM_BYTES  (UINT64_C(24) << 20)
#define ROOT_BYTES CS_ROOT_GRAIN
#define RING_GPA   0x40000u
#define RING_BYTES 0x4000u /* of each queue: table, then available, then used */
#define RINGS_MAX  ((uint64_t)CS_MACHINE_DEVICES * CS_VIRTIO_QUEUES * RING_BYTES)
#define DISK_BYTES 65536u
#define STATE_MAX  65536u
#define TURNS      8
#define MSRS       6

static const uint32_t msrs[MSRS] = { 0x6e0, 0x10, 0x1b, 0x277, 0x12, 0x4b564d01 };

/* ---- a KVM that agrees to everything */

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);

static int new_fd(void)
{
	int fd = memfd_create("kvm", MFD_CLOEXEC);

	fuzz_require(fd >= 0 && ftruncate(fd, 16384) == 0);
	return fd;
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	if (_IOC_TYPE(request) != KVMIO)
		return __real_ioctl(fd, request, arg);
	switch (request) {
	case KVM_CREATE_VM:
	case KVM_CREATE_VCPU:
		return new_fd();
	case KVM_GET_TSC_KHZ:
		return 2000000;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return (int)((struct kvm_msrs *)arg)->nmsrs;
	case KVM_GET_CPUID2:
		((struct kvm_cpuid2 *)arg)->nent = 1;
		return 0;
	}
	return 0;
}

/* ---- the machine */

static struct world {
	struct cs_host_kvm kvm;
	struct cs_ram ram;
	char *rings; /* where the guest has them */
	int kernel_fd, state_fd, disk_fd, turn_fd;
	unsigned turns;
	struct cs_watch *turn_watch;

	/* Honest states, without and with a disk, and the rings as they were. */
	uint8_t *honest[2];
	size_t honest_bytes[2];
	char *honest_rings[2];
} world;

static void *map(uint64_t bytes, int prot)
{
	void *host = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	fuzz_require(host != MAP_FAILED);
	return host;
}

static struct cs_machine *make(bool disk, int state_fd, struct cs_err *err)
{
	static const struct cs_machine_agent agent = { .hostname = "fuzz" };
	const struct cs_disk file = { .fd = world.disk_fd, .under_fd = -1, .bytes = DISK_BYTES };
	const struct cs_boot boot = {
		.kernel_fd = world.kernel_fd, .initrd_fd = -1, .state_fd = state_fd, .delta_fd = -1
	};
	const struct cs_machine_spec spec = {
		.kvm = &world.kvm,
		.ram = &world.ram,
		.disk = disk ? &file : NULL,
		.boot = &boot,
		.root_type = "erofs",
		.vcpus = 2,
		.log_fd = -1,
		.paused_fd = -1,
		.note_fd = -1,
		.control_fd = -1,
		.vsock_fd = -1,
		.agent = &agent,
		.event_fd = -1,
	};
	struct cs_machine *machine = NULL;

	if (cs_machine_create(&spec, &machine, err) < 0)
		return NULL;
	return machine;
}

static void write_register(struct cs_machine *machine, unsigned device, uint64_t offset,
			   uint32_t value)
{
	cs_machine_access(machine, CS_MMIO_GPA + device * CS_MMIO_BYTES + offset, &value,
			  sizeof(value), true);
}

static uint64_t ring_at(unsigned device, unsigned queue)
{
	return RING_GPA + (uint64_t)(device * CS_VIRTIO_QUEUES + queue) * RING_BYTES;
}

/* As a driver does it; a buffer waits in each queue, and a notification. */
static void boot_device(struct cs_machine *machine, unsigned device)
{
	write_register(machine, device, VIRTIO_MMIO_STATUS, 1);
	write_register(machine, device, VIRTIO_MMIO_STATUS, 3);
	write_register(machine, device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	write_register(machine, device, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	write_register(machine, device, VIRTIO_MMIO_STATUS, 11);
	for (unsigned i = 0; i < cs_virtio_mmio_queues(machine->device[device]); i++) {
		const uint64_t at = ring_at(device, i);
		char *host = world.rings + (at - RING_GPA);
		struct vring_desc *desc = (void *)host;
		struct vring_avail *avail = (void *)(host + 0x2000);

		desc[0] = (struct vring_desc){ .addr = at + 0x1000,
					       .len = 64,
					       .flags = VRING_DESC_F_WRITE };
		avail->idx = 1;
		write_register(machine, device, VIRTIO_MMIO_QUEUE_SEL, i);
		write_register(machine, device, VIRTIO_MMIO_QUEUE_NUM, 8);
		write_register(machine, device, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)at);
		write_register(machine, device, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)at + 0x2000);
		write_register(machine, device, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)at + 0x3000);
		write_register(machine, device, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	write_register(machine, device, VIRTIO_MMIO_STATUS, 15);
}

static void touch(void *arg, const void *host, size_t bytes)
{
	const size_t at = (size_t)((const char *)host - (const char *)world.ram.seg[0].host);

	fuzz_require(at < RAM_BYTES && bytes <= RAM_BYTES - at);
}

static void make_honest(bool disk)
{
	struct cs_err err = { 0 };
	struct cs_machine *machine = make(disk, -1, &err);
	struct cs_stream *stream = cs_stream_create();
	const void *data;
	size_t bytes;

	fuzz_require(machine && stream);
	memset(world.rings, 0, RINGS_MAX);
	for (unsigned i = 0; i < machine->devices; i++)
		boot_device(machine, i);
	for (unsigned i = 0; i < machine->devices; i++)
		cs_virtio_mmio_settle(machine->device[i]);
	cs_machine_core_state(machine, stream);
	cs_machine_part(machine, touch, NULL);
	cs_machine_device_state(machine, stream);
	fuzz_require(cs_stream_end(stream, &err) == 0);
	data = cs_stream_data(stream, &bytes);
	fuzz_require(bytes < STATE_MAX);
	world.honest[disk] = malloc(bytes);
	memcpy(world.honest[disk], data, bytes);
	world.honest_bytes[disk] = bytes;
	world.honest_rings[disk] = malloc(RINGS_MAX);
	memcpy(world.honest_rings[disk], world.rings, RINGS_MAX);
	cs_stream_free(stream);
	cs_machine_free(machine);
}

static void set_up(void)
{
	static unsigned char kernel[CS_FAKE_VMLINUX_BYTES];
	struct cs_err err = { 0 };

	if (world.honest[0])
		return;
	world.kvm = (struct cs_host_kvm){ .fd = -1,
					  .run_bytes = 4096,
					  .tsc_khz = 2000000,
					  .xsave_bytes = 4096,
					  .xcrs = true,
					  .info = { .standard = true, .max_vcpus = 4 } };
	world.kvm.cpuid = calloc(1, 4096);
	world.kvm.shown = calloc(1, 4096);
	world.kvm.msrs = calloc(1, 4096);
	world.kvm.msrs->nmsrs = MSRS;
	memcpy(world.kvm.msrs->indices, msrs, sizeof(msrs));
	fuzz_require(cs_ram_plan(RAM_BYTES, ROOT_BYTES, &world.ram, &err) == 0);
	for (size_t i = 0; i < world.ram.n; i++)
		world.ram.seg[i].host =
			map(world.ram.seg[i].bytes, world.ram.seg[i].backing == CS_BACKING_SHARED
							    ? PROT_READ
							    : PROT_READ | PROT_WRITE);
	world.rings = (char *)world.ram.seg[0].host + RING_GPA;
	cs_fake_vmlinux(kernel, "6.1");
	world.kernel_fd = new_fd();
	fuzz_require(cs_pwrite_full(world.kernel_fd, kernel, sizeof(kernel), 0) == 0);
	world.state_fd = new_fd();
	world.disk_fd = new_fd();
	fuzz_require(ftruncate(world.disk_fd, DISK_BYTES) == 0);
	world.turn_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	make_honest(false);
	make_honest(true);
}

/* ---- what an input says */

/* An honest state with some bytes changed, and perhaps cut short. */
static size_t spoil(struct fuzz_input *in, bool disk, uint8_t *to)
{
	size_t bytes = world.honest_bytes[disk];
	const unsigned changes = fuzz_byte(in) % 16;

	memcpy(to, world.honest[disk], bytes);
	for (unsigned i = 0; i < changes; i++) {
		const uint16_t at = fuzz_u16(in);
		const uint8_t how = fuzz_byte(in);

		/* The devices are at the end, and are what is most worth it. */
		if (how & 1)
			to[bytes - 1 - at % 1024] = fuzz_byte(in);
		else
			to[at % bytes] ^= (uint8_t)(1u << how % 8);
	}
	if (fuzz_byte(in) >= 250)
		bytes -= fuzz_u16(in) % bytes;
	return bytes;
}

/* Seldom: a ring of io_uring takes longer than all the rest. */
static bool has_disk(uint8_t mode)
{
	return mode % 8 == 7;
}

static size_t state_of(struct fuzz_input *in, uint8_t mode, uint8_t *to)
{
	size_t bytes;

	if (mode >= 16)
		return spoil(in, has_disk(mode), to);
	bytes = in->left < STATE_MAX ? in->left : STATE_MAX;
	if (bytes)
		memcpy(to, in->at, bytes);
	return bytes;
}

static void on_turn(void *arg, uint32_t events)
{
	struct cs_machine *machine = arg;
	uint64_t one;

	fuzz_require(read(world.turn_fd, &one, sizeof(one)) == sizeof(one));
	if (world.turns-- == 0) {
		cs_loop_stop(machine->loop);
		return;
	}
	one = 1;
	fuzz_require(write(world.turn_fd, &one, sizeof(one)) == sizeof(one));
}

/* It goes on: what waits is served, registers are read, and a driver can start again. */
static void live(struct cs_machine *machine)
{
	const uint64_t one = 1;
	struct cs_err err = { 0 };

	world.turns = TURNS;
	fuzz_require(write(world.turn_fd, &one, sizeof(one)) == sizeof(one));
	fuzz_require(cs_loop_add(machine->loop, world.turn_fd, EPOLLIN, on_turn, machine,
				 &world.turn_watch) == 0);
	fuzz_require(cs_loop_run(machine->loop, &err) == 0);
	cs_watch_free(world.turn_watch);
	for (unsigned i = 0; i < machine->devices; i++) {
		for (uint64_t at = 0; at < 0x120; at += 4) {
			uint32_t value;

			cs_machine_access(machine, CS_MMIO_GPA + i * CS_MMIO_BYTES + at, &value,
					  sizeof(value), false);
		}
		write_register(machine, i, VIRTIO_MMIO_STATUS, 0);
		boot_device(machine, i);
	}
}

const uint64_t fuzz_inputs = 3000;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static uint8_t state[STATE_MAX];
	struct fuzz_input in = { data, bytes };
	struct cs_err err = { 0 };
	struct cs_machine *machine;
	uint8_t mode;
	size_t n;

	set_up();
	mode = fuzz_byte(&in);
	memcpy(world.rings, world.honest_rings[has_disk(mode)], RINGS_MAX);
	n = state_of(&in, mode, state);
	fuzz_require(ftruncate(world.state_fd, 0) == 0 &&
		     cs_pwrite_full(world.state_fd, state, n, 0) == 0);
	machine = make(has_disk(mode), world.state_fd, &err);
	if (!machine) {
		fuzz_require(err.code == EBADMSG || err.code == ESTALE);
		fuzz_require(strncmp(err.text, "state: ", 7) == 0);
		return 0;
	}
	live(machine);
	cs_machine_free(machine);
	return 0;
}

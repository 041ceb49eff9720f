/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by machine*.c. */
#pragma once

#include <pthread.h>

#include "vmm/agent.h"
#include "vmm/boot-linux.h"
#include "vmm/control.h"
#include "vmm/fold.h"
#include "vmm/loop.h"
#include "vmm/machine.h"
#include "vmm/mem.h"
#include "vmm/serial.h"
#include "vmm/snapshot.h"
#include "vmm/stream.h"
#include "vmm/vcpu.h"
#include "vmm/virtio-mmio.h"

#define CS_MACHINE_DEVICES 8

struct cs_machine_vcpu {
	struct cs_machine *machine;
	struct cs_vcpu *vcpu;
	bool halted; /* as of the last kick */
	bool parked; /* out of the guest, and its state complete */
};

struct cs_machine {
	struct cs_machine_spec spec;
	struct cs_mem mem;
	int vm_fd;

	/* Held around every callback of the loop and every register access of a vCPU: all that is
	 * below. */
	pthread_mutex_t lock;
	struct cs_loop *loop;
	struct cs_virtio_mmio *device[CS_MACHINE_DEVICES]; /* in the guest's order */
	int irq_fd[CS_MACHINE_DEVICES];
	unsigned devices;
	struct cs_virtio *console, *balloon; /* of the devices, lent */
	struct cs_serial serial;
	struct cs_agent *agent;
	struct cs_control *control;
	int event_fd; /* who spawned us waits for 'R' and 'A' */
	int signal_fd;
	struct cs_watch *signal_watch;
	int turn_fd, over_fd; /* of the spec */
	struct cs_watch *turn_watch;
	struct cs_timer *turn_timer; /* armed while it is its turn */

	struct cs_machine_vcpu *vcpu; /* spec.vcpus of them */
	pthread_cond_t unpaused, one_parked;
	bool paused, quit;
	bool started; /* its vCPUs have their threads */
	bool held;    /* which wait for the machine's state */
	void *state;  /* of (state_bytes): read ahead, and checked; NULL: not so far */
	size_t state_bytes;
	bool parking; /* all stand still for a moment, whether paused or not */

	int pagemap_fd;                          /* -1: this host has none, and nothing is saved */
	struct cs_boot_span file[CS_BOOT_FILES]; /* where it was booted from; none when restored */
	struct cs_fold *fold;                    /* the fold under way; NULL: none */
	struct cs_pings *pings;                  /* who waits for a sign of life */
	struct cs_snapshot *snapshot;            /* the save under way; NULL: none */

	struct cs_timer *halt_timer; /* armed while the agent is gone: did the guest halt? */
	struct cs_timer *stop_timer; /* the agent was asked to stop and does not answer */
	bool agent_ready, agent_gone, stopping, ended;
	bool enrolled; /* what it wrote may be merged with other guests' */
	enum cs_stop why;
	int status;
	char failure[160];
};

/* Build all devices of the spec, bind their interrupt and notifications (machine-devices.c). */
int cs_machine_add_devices(struct cs_machine *machine, struct cs_err *err);

/* The kernel's whole command line in (text) of (bytes). */
int cs_machine_cmdline(const struct cs_machine *machine, char *text, size_t bytes,
		       struct cs_err *err);

/* Register access of a vCPU to the device windows. */
void cs_machine_access(struct cs_machine *machine, uint64_t gpa, void *data, unsigned bytes,
		       bool write);

/* Start the services of the host side: control socket, agent (machine-host.c). */
int cs_machine_add_services(struct cs_machine *machine, struct cs_err *err);

/* Its guest wakes when its turn comes (machine-turn.c); lock held. */
int cs_machine_await_turn(struct cs_machine *machine, struct cs_err *err);

/* It wakes at once: somebody wants something of it. */
void cs_machine_rouse(struct cs_machine *machine);

/* It is awake: the next may, if it was this one's turn. */
void cs_machine_end_turn(struct cs_machine *machine);

/* Does what the guest wrote wait for room on the host? Lock held. */
static inline bool cs_machine_waits(const struct cs_machine *machine)
{
	for (unsigned i = 0; i < machine->devices; i++) {
		if (cs_virtio_mmio_waits(machine->device[i]))
			return true;
	}
	return false;
}

/* End the machine for (why), once; lock held. */
void cs_machine_end(struct cs_machine *machine, enum cs_stop why);

/* Make every vCPU look up. */
void cs_machine_kick(struct cs_machine *machine);

/* Have all vCPUs stand still, out of the guest, and wait for the last; the lock is given away
 * meanwhile. Not in a vCPU's thread. When the machine ends first, some may be gone: (ended) tells.
 */
void cs_machine_park(struct cs_machine *machine);
void cs_machine_unpark(struct cs_machine *machine);

/* ---- state (machine-state.c) */

/* Save or load: the shape and what KVM holds; then the devices. Saved in two parts, since the
 * second is written by the child, where KVM does not answer. */
void cs_machine_core_state(struct cs_machine *machine, struct cs_stream *stream);
void cs_machine_device_state(struct cs_machine *machine, struct cs_stream *stream);

/* In the child: its devices are cut from the world; (touch) hears what that writes. */
void cs_machine_part(struct cs_machine *machine, cs_virtio_touch_fn touch, void *arg);

/* A machine that was just made goes on from what (data) holds, or from the spec's state. */
int cs_machine_load(struct cs_machine *machine, const void *data, size_t bytes, struct cs_err *err);
int cs_machine_restore(struct cs_machine *machine, struct cs_err *err);

/* Read the spec's state ahead of cs_machine_restore(), which needs the descriptor no more then. */
int cs_machine_read_state(struct cs_machine *machine, struct cs_err *err);

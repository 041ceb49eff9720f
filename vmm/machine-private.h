/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by machine*.c. */
#pragma once

#include <pthread.h>

#include "vmm/agent.h"
#include "vmm/control.h"
#include "vmm/loop.h"
#include "vmm/machine.h"
#include "vmm/mem.h"
#include "vmm/serial.h"
#include "vmm/vcpu.h"
#include "vmm/virtio-mmio.h"

#define CS_MACHINE_DEVICES 8

struct cs_machine_vcpu {
	struct cs_machine *machine;
	struct cs_vcpu *vcpu;
	bool halted; /* as of the last kick */
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
	struct cs_virtio *console; /* one of the devices', lent */
	struct cs_serial serial;
	struct cs_agent *agent;
	struct cs_control *control;
	int event_fd; /* who spawned us waits for 'R' and 'A' */
	int signal_fd;
	struct cs_watch *signal_watch;

	struct cs_machine_vcpu *vcpu; /* spec.vcpus of them */
	pthread_cond_t unpaused;
	bool paused, quit;

	struct cs_timer *halt_timer; /* armed while the agent is gone: did the guest halt? */
	struct cs_timer *stop_timer; /* the agent was asked to stop and does not answer */
	bool agent_ready, agent_gone, stopping, ended;
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

/* End the machine for (why), once; lock held. */
void cs_machine_end(struct cs_machine *machine, enum cs_stop why);

/* Make every vCPU look up. */
void cs_machine_kick(struct cs_machine *machine);

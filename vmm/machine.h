/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A machine: KVM, vCPUs, devices, built from plain values. It does not know where its memory came
 * from. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/guest.h"
#include "store/base/own.h"

/* What the agent gets told at boot (wire.h, CONFIG). Lent until the machine is freed. */
struct cs_machine_agent {
	const char *hostname;
	char *const *command; /* NULL-ended; NULL: none */
	char *const *env;     /* NULL-ended; NULL: none */
	bool persist, run_init;
	bool same; /* it was parked: this is no other guest than it was */
};

struct cs_host_kvm; /* vmm/kvm.h: /dev/kvm opened and probed once, before the fork */

struct cs_machine_spec {
	const struct cs_host_kvm *kvm;
	const struct cs_ram
		*ram; /* mapped; the SHARED segment, if any, becomes virtio-pmem, /dev/pmem0 */
	const struct cs_disk *disk; /* NULL: none; virtio-blk, /dev/vda */
	const struct cs_boot *boot;
	int memory_fd;          /* the file that the COW segments are mapped from; -1: none */
	uint64_t memory_offset; /* where the first of them begins in it */
	const char *append;     /* more of the kernel's command line; NULL: none */
	const char *root_type;  /* "erofs", "ext4" */
	unsigned vcpus;
	/* Let the kernel merge (ram) with that of others, or no longer (ksm/enroll.h); in the loop
	 * thread. NULL: the guest is in no share domain, and is never merged. */
	int (*enroll)(const struct cs_ram *ram, bool on, int ranges_fd, uint64_t *ret_bytes,
		      struct cs_err *err);
	int log_fd;     /* console log, read-write; -1: none */
	int paused_fd;  /* a file that holds "paused\n" while the machine is paused, and nothing
			   otherwise; -1: none */
	int note_fd;    /* what the agent wants the user to read, a line each; -1: dropped */
	int control_fd; /* listening unix stream socket of control.h; -1: none */
	int vsock_fd;   /* listening unix stream socket of the vsock convention; -1: none */
	const char *vsock_path; /* prefix for guest-initiated connections, as the monitor sees it */
	const struct cs_machine_agent *agent;
	/* Told once each, in the loop thread; (fd)s -1: not asked for. One byte is written: 'R'
	 * when its vCPUs have set out, 'A' when the agent is ready; the descriptor is closed behind
	 * 'A' or when the machine ends. */
	int event_fd;
	/* One of many that go on from a saved state at once, whose guests wake in turns: its turn
	 * has come when (turn_fd), a pipe, is at its end, and is over when (over_fd), written to by
	 * nobody, is closed. Until then its vCPUs run and halt, and the guest is told nothing,
	 * unless somebody wants something of it. Both become the machine's; -1: it wakes at once,
	 * nobody waits for it. */
	int turn_fd, over_fd;
	bool later; /* only read boot->state_fd: cs_machine_go_on() goes on from what it says */
};

enum cs_stop {
	CS_STOP_POWEROFF, /* the guest powered off */
	CS_STOP_REBOOT,   /* the guest reset itself: start it again */
	CS_STOP_CRASH,    /* triple fault without a word, KVM internal error, kernel panic */
	CS_STOP_REQUEST,  /* cs_machine_stop(), control socket's "quit", or SIGTERM */
};

struct cs_machine;

/* Make VM, memory slots, irqchip, vCPUs and devices; load the kernel, or with boot->state_fd go on
 * from there: its memory is then (ram), mapped from what was saved with it, and the kernel is not
 * looked at. Everything the guest could influence is validated. -ESTALE: the state does not fit
 * this host, machine or version, which may boot instead; -EBADMSG: the state is broken. */
int cs_machine_create(const struct cs_machine_spec *spec, struct cs_machine **ret,
		      struct cs_err *err);

/* Map (n) ranges of pages of its RAM, counted as in the MEMORY part (the segments but the SHARED
 * one), which its guest is about to read or write, so that each is not an exit then. Where KVM can
 * (Linux 6.11, with nested paging); otherwise nothing happens. Before its threads are started. */
void cs_machine_prefault(const struct cs_machine *machine, const struct cs_page_range range[],
			 size_t n);

/* Start the threads of a machine made (later), which wait for that: behind cs_sandbox_enter(), and
 * before anybody waits for the machine. */
int cs_machine_start_held(struct cs_machine *machine, struct cs_err *err);

/* A machine made (later) goes on from its state now, which is whole until then: (agent) says by now
 * who it is. (event_fd), as in the spec, becomes the machine's, also on failure. Its vCPUs run from
 * then on; call cs_machine_run(). */
int cs_machine_go_on(struct cs_machine *machine, int event_fd, struct cs_err *err);

/* Serve until the guest ends. Call cs_sandbox_enter() before. *ret_status: exit status of COMMAND,
 * -1: it has none. */
int cs_machine_run(struct cs_machine *machine, enum cs_stop *ret, int *ret_status,
		   struct cs_err *err);

void cs_machine_stop(struct cs_machine *machine); /* from any thread */

struct cs_machine *cs_machine_free(struct cs_machine *machine);
CS_DEFINE_AUTO(cs_machine);

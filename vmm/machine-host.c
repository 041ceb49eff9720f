/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host side of a machine: what its agent tells it, and what its control socket asks. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "store/base/io.h"
#include "vmm/irq.h"
#include "vmm/machine-private.h"
#include "vmm/ping.h"
#include "vmm/sketch.h"
#include "vmm/snapshot-memory.h"
#include "vmm/virtio-devices.h"

/* What the agent needs behind its grace, to sync and unmount, before we end the machine ourselves.
 */
#define STOP_SLACK_MS       5000
#define HALT_CHECK_FIRST_MS 100

/* ---- the agent
 * ----------------------------------------------------------------------------------- */

static void agent_ready(void *arg)
{
	struct cs_machine *machine = arg;

	machine->agent_ready = true;
	machine->agent_gone = false;
	cs_timer_set(machine->halt_timer, 0);
	cs_pings_answered(machine->pings);
	cs_machine_end_turn(machine);
	if (machine->event_fd < 0)
		return;
	if (write(machine->event_fd, "A", 1) != 1)
		machine->agent_ready = true; /* nobody waits any more: that is fine */
	cs_fd_closep(&machine->event_fd);
}

static void agent_exited(void *arg, unsigned status)
{
	struct cs_machine *machine = arg;

	machine->status = (int)status;
}

static void agent_bye(void *arg, enum cs_wire_stop reason)
{
	cs_machine_end(arg, reason == CS_WIRE_REBOOT ? CS_STOP_REBOOT : CS_STOP_POWEROFF);
}

static void agent_trouble(void *arg, const char *text)
{
	const struct cs_machine *machine = arg;

	if (machine->spec.note_fd >= 0)
		dprintf(machine->spec.note_fd, "%s: %s\n", machine->spec.agent->hostname, text);
}

/* It ended without a word: the guest shuts down by itself, or the agent was killed. Watch whether
 * the guest halts. */
static void agent_lost(void *arg)
{
	struct cs_machine *machine = arg;

	machine->agent_ready = false;
	machine->agent_gone = true;
	cs_pings_lost(machine->pings);
	cs_timer_set(machine->halt_timer, HALT_CHECK_FIRST_MS);
}

static void agent_frozen(void *arg, int error)
{
	cs_snapshot_frozen(arg, error);
}

static void agent_pong(void *arg)
{
	const struct cs_machine *machine = arg;

	cs_pings_answered(machine->pings);
}

static uint64_t agent_clock(void *arg)
{
	const struct cs_machine *machine = arg;

	return cs_vm_clock(machine->vm_fd);
}

/* ---- the control socket
 * -------------------------------------------------------------------------- */

static const char *state_of(const struct cs_machine *machine)
{
	if (machine->paused)
		return "paused";
	if (machine->stopping)
		return "stopping";
	return machine->agent_ready ? "ready" : "booting";
}

static int control_status(void *arg, char *text, size_t bytes, struct cs_err *err)
{
	const struct cs_machine *machine = arg;
	struct cs_balloon_info balloon;

	cs_virtio_balloon_info(machine->balloon, &balloon);
	snprintf(text, bytes,
		 "state=%s vcpus=%u enrolled=%d from_memory=%d target_bytes=%" PRIu64
		 " actual_bytes=%" PRIu64 " reported_bytes=%" PRIu64 "%s%s",
		 state_of(machine), machine->spec.vcpus, machine->enrolled,
		 machine->mem.ram.seg[0].backing != CS_BACKING_ANON, balloon.target_bytes,
		 balloon.actual_bytes, balloon.reported_bytes,
		 machine->spec.disk ? " disk_waits=" : "",
		 !machine->spec.disk         ? ""
		 : cs_machine_waits(machine) ? "1"
					     : "0");
	return 0;
}

static int stop_by_agent(struct cs_machine *machine, enum cs_wire_stop how, uint32_t grace_ms,
			 struct cs_err *err)
{
	int r;

	if (machine->paused)
		return cs_fail(err, EBUSY, "it is paused (resume it, or kill it)");
	if (machine->parking)
		return cs_fail(err, EBUSY, "it is being parked (try again)");
	if (machine->agent_gone)
		return cs_fail(err, ENOTCONN, "its agent is gone (kill it)");
	r = cs_agent_stop(machine->agent, how, grace_ms);
	/* -EAGAIN: still booting; it is told as soon as it says hello. */
	if (r < 0 && r != -EAGAIN)
		return cs_fail_errno(err, r, "its agent cannot be asked");
	machine->stopping = true;
	cs_timer_set(machine->stop_timer, (uint64_t)grace_ms + STOP_SLACK_MS);
	return 0;
}

static int control_stop(void *arg, uint32_t grace_ms, struct cs_err *err)
{
	return stop_by_agent(arg, CS_WIRE_POWEROFF, grace_ms, err);
}

static int control_reboot(void *arg, struct cs_err *err)
{
	return stop_by_agent(arg, CS_WIRE_REBOOT, CS_CONTROL_GRACE_MS, err);
}

/* For those that list guests without asking each. */
static void note_paused(const struct cs_machine *machine)
{
	static const char word[] = "paused\n";
	const int fd = machine->spec.paused_fd;

	if (fd >= 0 && !machine->paused && ftruncate(fd, 0) < 0)
		return; /* only a list is wrong */
	if (fd >= 0 && machine->paused)
		cs_pwrite_full(fd, word, sizeof(word) - 1, 0);
}

static int control_pause(void *arg, struct cs_err *err)
{
	struct cs_machine *machine = arg;

	if (machine->parking)
		return cs_fail(err, EBUSY, "it is being parked");
	machine->paused = true;
	note_paused(machine);
	cs_machine_kick(machine);
	return 0;
}

static int control_resume(void *arg, struct cs_err *err)
{
	struct cs_machine *machine = arg;

	machine->paused = false;
	note_paused(machine);
	pthread_cond_broadcast(&machine->unpaused);
	return 0;
}

/* Whoever asks: what the guest was spawned as decides. */
static int shares_nothing(struct cs_err *err)
{
	return cs_fail(err, EPERM, "it is in no share domain, and shares nothing that it wrote");
}

static int no_pagemap(struct cs_err *err)
{
	return cs_fail(err, EOPNOTSUPP,
		       "this host does not tell which pages are its own (/proc/self/pagemap)");
}

/* Which they are says nothing of what is in them, so that is told of every guest. */
static int write_pages(const struct cs_machine *machine, bool seen, int fd, uint64_t *ret_ranges,
		       struct cs_err *err)
{
	cs_auto(cs_picture_clear) struct cs_picture picture = { 0 };
	size_t n = 0;
	int r;

	if (machine->pagemap_fd < 0)
		return no_pagemap(err);
	r = seen ? cs_picture_take_seen(machine->pagemap_fd, &machine->mem.ram, &picture)
		 : cs_picture_take(machine->pagemap_fd, &machine->mem.ram, NULL, &picture);
	if (r == 0)
		r = cs_picture_ranges(&picture, fd, &n);
	*ret_ranges = n;
	return r < 0 ? cs_fail_errno(err, -r, "cannot tell which pages are its own") : 0;
}

static int control_own(void *arg, int fd, uint64_t *ret_ranges, struct cs_err *err)
{
	return write_pages(arg, false, fd, ret_ranges, err);
}

static int control_seen(void *arg, int fd, uint64_t *ret_ranges, struct cs_err *err)
{
	return write_pages(arg, true, fd, ret_ranges, err);
}

static int control_sketch(void *arg, int fd, uint64_t *ret_pages, struct cs_err *err)
{
	const struct cs_machine *machine = arg;
	int r;

	if (!machine->spec.enroll)
		return shares_nothing(err);
	if (machine->pagemap_fd < 0)
		return no_pagemap(err);
	r = cs_sketch_write(machine->pagemap_fd, &machine->mem.ram, fd, ret_pages);
	if (r == -EFBIG)
		return cs_fail(err, EFBIG, "it has too much memory of its own for a sketch");
	return r < 0 ? cs_fail_errno(err, -r, "cannot sketch its memory") : 0;
}

static int control_enroll(void *arg, bool on, int ranges_fd, uint64_t *ret_bytes,
			  struct cs_err *err)
{
	struct cs_machine *machine = arg;
	int r;

	if (!machine->spec.enroll)
		return shares_nothing(err);
	r = machine->spec.enroll(&machine->mem.ram, on, ranges_fd, ret_bytes, err);
	if (r == 0)
		machine->enrolled = on;
	return r;
}

static int control_balloon(void *arg, uint64_t bytes, struct cs_err *err)
{
	struct cs_machine *machine = arg;
	struct cs_balloon_info balloon;

	cs_virtio_balloon_info(machine->balloon, &balloon);
	if (!balloon.driven)
		return cs_fail(err, EOPNOTSUPP,
			       "its kernel does not serve the balloon (it is booting, or was built "
			       "without CONFIG_VIRTIO_BALLOON)");
	cs_virtio_balloon_set(machine->balloon, bytes);
	return 0;
}

static int control_quit(void *arg, struct cs_err *err)
{
	cs_machine_end(arg, CS_STOP_REQUEST);
	return 0;
}

static int control_console(void *arg, int fd, struct cs_err *err)
{
	struct cs_machine *machine = arg;
	int r = cs_virtio_console_attach(machine->console, fd);

	cs_machine_rouse(machine);
	return r < 0 ? cs_fail_errno(err, r, "cannot attach to the console") : 0;
}

static int control_save(void *arg, struct cs_control_client *client, const int fds[], size_t n,
			const char *words, struct cs_err *err)
{
	cs_machine_rouse(arg);
	return cs_snapshot_begin(arg, client, fds, n, words, err);
}

static int control_fold(void *arg, struct cs_control_client *client, struct cs_err *err)
{
	return cs_fold_begin(arg, client, err);
}

static int control_ping(void *arg, struct cs_control_client *client, struct cs_err *err)
{
	struct cs_machine *machine = arg;

	cs_machine_rouse(machine);
	return cs_pings_begin(machine->pings, client, err);
}

static void control_save_gone(void *arg, struct cs_control_client *client)
{
	struct cs_machine *machine = arg;

	if (cs_pings_gone(machine->pings, client))
		return;
	if (cs_fold_is_for(machine->fold, client))
		machine->fold = cs_fold_free(machine->fold);
	else
		cs_snapshot_gone(machine);
}

int cs_machine_add_services(struct cs_machine *machine, struct cs_err *err)
{
	static const struct cs_agent_events events = {
		.ready = agent_ready,
		.exited = agent_exited,
		.bye = agent_bye,
		.trouble = agent_trouble,
		.lost = agent_lost,
		.frozen = agent_frozen,
		.pong = agent_pong,
		.clock = agent_clock,
	};
	static const struct cs_control_ops ops = {
		.status = control_status,
		.stop = control_stop,
		.reboot = control_reboot,
		.pause = control_pause,
		.resume = control_resume,
		.enroll = control_enroll,
		.sketch = control_sketch,
		.own = control_own,
		.seen = control_seen,
		.balloon = control_balloon,
		.quit = control_quit,
		.console = control_console,
		.save = control_save,
		.fold = control_fold,
		.ping = control_ping,
		.save_gone = control_save_gone,
	};
	const struct cs_agent_spec agent = { .config = machine->spec.agent,
					     .events = &events,
					     .arg = machine };
	const struct cs_control_spec control = { .listen_fd = machine->spec.control_fd,
						 .ops = &ops,
						 .arg = machine };
	int r;

	r = cs_agent_create(&agent, machine->loop, &machine->agent, err);
	if (r < 0)
		return r;
	if (cs_pings_create(machine->agent, &machine->pings) < 0)
		return cs_fail_errno(err, ENOMEM, "cannot serve the guest's agent");
	if (control.listen_fd < 0)
		return 0;
	return cs_control_create(&control, machine->loop, &machine->control, err);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Of many guests that go on from a saved state at once each wakes in its turn: all at the same time
 * they would be late together, and where their kernels are emulated the ticks that come due in each
 * while it waits for a CPU would be most of the work. */
#include <errno.h>
#include <sys/epoll.h>

#include "vmm/machine-private.h"

void cs_machine_rouse(struct cs_machine *machine)
{
	cs_agent_wake(machine->agent);
}

/* One that does not wake (it is paused, or hangs in what it does at that moment) holds up those
 * behind it for so long at most. */
#define TURN_MS 5000

/* One that was wanted before its turn keeps the next waiting until that has come as well: or each
 * that is asked for would set another row of guests going. */
void cs_machine_end_turn(struct cs_machine *machine)
{
	if (!machine->agent_ready || machine->turn_fd >= 0)
		return;
	machine->turn_timer = cs_timer_free(machine->turn_timer);
	cs_fd_closep(&machine->over_fd);
}

static void on_late(void *arg, uint32_t events)
{
	struct cs_machine *machine = arg;

	cs_fd_closep(&machine->over_fd);
}

static void on_turn(void *arg, uint32_t events)
{
	struct cs_machine *machine = arg;

	machine->turn_watch = cs_watch_free(machine->turn_watch);
	cs_fd_closep(&machine->turn_fd);
	cs_machine_rouse(machine);
	cs_timer_set(machine->turn_timer, TURN_MS);
	cs_machine_end_turn(machine);
}

int cs_machine_await_turn(struct cs_machine *machine, struct cs_err *err)
{
	int r;

	if (machine->turn_fd < 0) {
		cs_machine_rouse(machine);
		return 0;
	}
	r = cs_timer_create(machine->loop, on_late, machine, &machine->turn_timer);
	if (r == 0)
		r = cs_loop_add(machine->loop, machine->turn_fd, EPOLLIN, on_turn, machine,
				&machine->turn_watch);
	return r < 0 ? cs_fail_errno(err, r, "cannot wait for its turn") : 0;
}

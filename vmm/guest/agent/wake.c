/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Waking up. The memory of a frozen guest has been saved, and this machine goes on from there:
 * maybe one of many that do. Its devices come back without connections; that the monitor's is lost
 * is how we know. Until the monitor of this machine has told who we are, nobody else runs.
 *
 * Somebody waits for all of this, and a system call can cost a millisecond: what can be done before
 * the guest is saved is done in cs_wake_prepare(), what can be done behind READY is done there. */
#include <string.h>

#include "vmm/guest/agent/agent.h"

void cs_wake_prepare(struct cs_agent *a)
{
	/* Nobody has run since it was made ready the last time. */
	if (a->wake.owed) {
		if (a->wake.socket < 0)
			cs_control_prepare(a);
		return;
	}

	cs_wake_close(a);
	cs_identity_prepare(a);
	cs_hooks_prepare(a);
	cs_control_prepare(a);
}

/* Nobody else runs from here on. True: nobody may before there is a CONFIG, since the guest was
 * saved, or restored without having been asked before. */
static bool stand_still(struct cs_agent *a, bool reset)
{
	struct cs_freezer *f = &a->freezer;
	const bool must = reset || f->state != CS_FREEZER_OFF;

	/* The one who asked does not wait for the answer any more. */
	f->asked = false;
	if (f->state == CS_FREEZER_OFF)
		cs_freezer_hold(a);
	else if (f->state == CS_FREEZER_ON)
		return true;
	cs_wake_prepare(a);
	return must;
}

/* There is a CONFIG: up to READY. */
static void become(struct cs_agent *a)
{
	uint32_t failed = 0;

	cs_identity_wake(a);
	cs_hooks_run(a);
	cs_freezer_release(a);
	/* Without a new one the old one stays what the guest lives for; beside a new one it is a
	 * process like any other. */
	if (a->config.argv && a->config.argv[0]) {
		cs_watch_close(a, &a->console);
		a->command = 0;
		failed = cs_command_start(a);
	}
	cs_config_forget_command(&a->config);
	cs_control_send(a, CS_WIRE_READY, NULL, 0);
	if (failed)
		cs_command_end(a, failed);
}

void cs_wake(struct cs_agent *a, bool reset)
{
	struct cs_watch lost = a->control;
	bool must;

	/* On the way down there is nobody to become. */
	if (a->stop.phase != CS_STOP_NONE) {
		cs_watch_close(a, &a->control);
		return;
	}

	must = stand_still(a, reset);
	cs_queue_clear(&a->control_held);
	if (cs_control_again(a, must) == 0) {
		become(a);
	} else {
		cs_agent_say(a, "the monitor has gone: serving without it");
		cs_freezer_release(a);
	}

	cs_watch_close(a, &lost);
	cs_control_serve(a);
	cs_freezer_settle(a);
}

void cs_wake_config(struct cs_agent *a, const struct cs_config *config)
{
	stand_still(a, true);
	cs_config_forget_command(&a->config);
	a->config = *config;
	become(a);
	cs_freezer_settle(a);
}

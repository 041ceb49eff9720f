/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stage (b): from the kernel's read-only root to a guest that serves. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/exec.h"

/* A kernel that found no console starts us with none: then 0, 1 and 2 would become other files. */
static void need_stdio(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (fd < 0)
			fd = open("/", O_RDONLY | O_CLOEXEC);
	} while (fd >= 0 && fd < 3);
	if (fd >= 3)
		close(fd);
}

/* Without a monitor (another VMM, a kernel without vsock) it is a guest with a console. */
static void ask_monitor(struct cs_agent *a)
{
	int r = cs_control_open(a);

	if (r < 0)
		cs_agent_say(a, "no monitor answers on vsock (%s): console only", strerror(-r));
}

void cs_boot_ready(struct cs_agent *a)
{
	uint32_t failed = 0;

	if (a->config.argv && a->config.argv[0])
		failed = cs_command_start(a);
	else if (a->role == CS_ROLE_INIT && a->console.fd < 0)
		cs_command_console(a);

	/* Also before the word that it could not be run: the monitor waits for READY first. */
	cs_control_send(a, CS_WIRE_READY, NULL, 0);
	if (failed)
		cs_command_end(a, failed);
}

void cs_boot_root(struct cs_agent *a)
{
	bool fresh = false, run_init;
	const char *what;
	int r;

	need_stdio();
	ask_monitor(a);
	run_init = a->config.flags & CS_WIRE_CONFIG_INIT;
	cs_identity_kernel(a);
	r = cs_mounts_root(a, a->config.flags & CS_WIRE_CONFIG_PERSIST, &fresh, &what);
	if (r < 0)
		cs_agent_die(a, "cannot mount %s: %s", what, strerror(-r));
	cs_identity_root(a, fresh);
	cs_freezer_boot(a, run_init);

	/* From here on there may be two of us: descriptors of the loop only behind it. */
	if (run_init)
		cs_command_init(a);
	cs_freezer_leave(a);
	r = cs_agent_prepare(a);
	if (r == 0)
		r = cs_control_serve(a);
	if (r < 0)
		cs_agent_die(a, "cannot set up the agent: %s", strerror(-r));

	r = cs_service_listen(a);
	if (r < 0 && a->control.fd >= 0)
		cs_agent_die(a, "cannot serve on vsock: %s", strerror(-r));
	cs_boot_ready(a);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Start a process in the guest. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/users.h"

struct cs_spawn {
	char *const *argv;
	char *const *env;    /* over the defaults PATH, HOME, TERM, HOSTNAME; NULL: only those */
	const char *folder;  /* "": "/" */
	const char *login;   /* argv[0] to show instead; NULL: argv[0] */
	struct cs_user user; /* all zero: root */
	int fd[3];           /* its stdin, stdout, stderr: all over 2 */
	bool terminal;       /* fd[0] is a terminal: make it the controlling one */
	bool hook;           /* runs while everybody else is frozen */

	/* on failure */
	int error; /* errno */
	char words[200];
};

/* Start (s) in a session of its own. The pid, or -errno with s->words: it is known for certain
 * whether the program was executed. */
pid_t cs_spawn_run(struct cs_agent *a, struct cs_spawn *s);

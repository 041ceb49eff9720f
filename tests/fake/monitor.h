/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest's folder with a monitor's vsock.sock in it, and behind that an agent: a thread that plays
 * a script for one connection. It notes the line at which it saw something wrong. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/client.h"

#define HANG_S 60 /* a test that takes longer is ended by a signal */

struct world {
	char folder[128];
	int dirfd, listen_fd;
	pthread_t thread;
	bool running;
	/* (refusals) connections are closed, then (script) gets one. */
	unsigned refusals;
	void (*script)(struct world *w, int fd);
	int wrong;
	/* What scripts and tests tell each other. */
	struct cs_wire_exec exec;
	char strings[512];
	size_t strings_bytes;
	uint64_t bytes, sum;
	int in_fd, out_fd, number;
	char *payload;
};

#define CHECK(what)                                                                                \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			w->wrong = __LINE__;                                                       \
			return;                                                                    \
		}                                                                                  \
	} while (0)

/* cmocka's set-up and tear-down of each test. */
int world_open(void **state);
int world_close(void **state);

void world_start(struct world *w, void (*script)(struct world *w, int fd));
void world_finish(struct world *w); /* it has ended, and saw nothing wrong */

/* ---- for scripts */

void greet(struct world *w, int fd);
void put_u32(struct world *w, int fd, enum cs_wire_type type, uint32_t value);
/* Greet, take EXEC, say STARTED. */
void take_exec(struct world *w, int fd);
/* Greet, and wait for the end. */
void script_hold(struct world *w, int fd);

/* ---- for tests */

/* "cat -n" without any descriptor. */
struct cs_exec_spec spec_of(struct world *w);
uint64_t sum_of(uint64_t sum, const char *at, size_t bytes);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host's side of the exec service, for tests: an agent of our own on a unix socket, and
 * connections to it. Everything fails the running test by itself, also when the agent stays silent
 * for PEER_PATIENCE_MS. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/guest/agent/wire.h"

#define PEER_PATIENCE_MS 60000

struct peer_agent {
	pid_t pid;
	char folder[32]; /* a scratch folder; the socket is in it */
	char path[64];
};

/* cmocka's group set-up and tear-down; *state is the struct peer_agent. */
int peer_agent_start(void **state);
int peer_agent_stop(void **state);

int peer_connect(const struct peer_agent *agent);
void peer_send(int fd, enum cs_wire_type type, const void *payload, size_t bytes);

/* The next message; (payload) has room for CS_WIRE_MAX + 1 and gets a NUL. */
struct cs_wire_head peer_receive(int fd, void *payload);
/* The next message must be of (type). Its size. */
size_t peer_expect(int fd, enum cs_wire_type type, void *payload);
/* Read on until the agent has closed the connection. */
void peer_expect_end(int fd);

/* A list of strings, NULL-ended or NULL, as it travels. Its bytes. */
size_t peer_put_list(uint8_t *into, const char *const *list);

struct peer_exec {
	const char *const *argv, *const *env;
	const char *user, *folder;
	bool tty;
	uint16_t rows, columns;
};

void peer_exec(int fd, const struct peer_exec *exec);

/* What an exec has brought. */
struct peer_result {
	uint32_t status; /* of EXIT; or the errno of FAIL */
	bool failed;
	char words[512];
	uint8_t *out, *err; /* NUL-terminated */
	size_t n_out, n_err;
	uint64_t credit; /* granted in all, beyond the first */
};

/* Feed (input), then its end, and gather everything up to EXIT or FAIL. Closes (fd). */
struct peer_result peer_finish(int fd, const void *input, size_t bytes);
void peer_result_free(struct peer_result *result);

/* exec, finish: "sh -c (script)". */
struct peer_result peer_shell(const struct peer_agent *agent, const char *script);

/* A NULL-ended argv or env. */
#define ARGV(...) ((const char *const[]){ __VA_ARGS__, NULL })

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/agent/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* The program under test, in the folder of the build. */
#ifndef PEER_AGENT
#define PEER_AGENT "clearstore-agent"
#endif

/* ---- the agent ---- */

int peer_agent_start(void **state)
{
	const char *build = getenv("builddir");
	struct peer_agent *a = calloc(1, sizeof(*a));
	char program[4096];

	assert_non_null(a);
	memcpy(a->folder, "/tmp/cs-agent-XXXXXX", 21);
	if (!mkdtemp(a->folder))
		return -1;
	snprintf(a->path, sizeof(a->path), "%s/socket", a->folder);
	snprintf(program, sizeof(program), "%s/%s", build ? build : ".", PEER_AGENT);

	a->pid = fork();
	if (a->pid < 0)
		return -1;
	if (a->pid == 0) {
		/* Nothing of whoever runs the tests. */
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
		execl(program, program, "--serve-unix", a->path, NULL);
		perror(program);
		_exit(1);
	}

	*state = a;
	return 0;
}

/* Also says whether the agent survived the tests and ended as it should. */
int peer_agent_stop(void **state)
{
	struct peer_agent *a = *state;
	int status = -1;

	kill(a->pid, SIGTERM);
	if (waitpid(a->pid, &status, 0) != a->pid || status != 0)
		fprintf(stderr, "the agent ended with wait status %#x\n", status);
	unlink(a->path);
	if (rmdir(a->folder) < 0)
		fprintf(stderr, "%s: %s\n", a->folder, strerror(errno));
	free(a);
	return status;
}

int peer_connect(const struct peer_agent *a)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const struct timespec nap = { .tv_nsec = 10000000 };

	memcpy(address.sun_path, a->path, strlen(a->path) + 1);
	for (int i = 0; i < PEER_PATIENCE_MS / 10; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		assert_true(fd >= 0);
		if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
			return fd;
		close(fd);
		nanosleep(&nap, NULL);
	}

	fail_msg("the agent does not listen on %s", a->path);
	return -1;
}

/* ---- messages ---- */

static void wait_for(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	if (poll(&p, 1, PEER_PATIENCE_MS) != 1)
		fail_msg("the agent is silent");
}

void peer_send(int fd, enum cs_wire_type type, const void *payload, size_t bytes)
{
	struct cs_wire_head head = { .type = type, .bytes = (uint32_t)bytes };
	uint8_t message[sizeof(head) + CS_WIRE_MAX];
	size_t at = 0, n = sizeof(head) + bytes;

	memcpy(message, &head, sizeof(head));
	if (bytes)
		memcpy(message + sizeof(head), payload, bytes);
	while (at < n) {
		ssize_t sent;

		wait_for(fd, POLLOUT);
		sent = send(fd, message + at, n - at, MSG_NOSIGNAL | MSG_DONTWAIT);
		/* It may have said its last word already: that is still to be read. */
		if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
			return;
		assert_true(sent > 0 || errno == EAGAIN);
		at += sent > 0 ? (size_t)sent : 0;
	}
}

static bool receive_all(int fd, void *into, size_t bytes)
{
	size_t at = 0;

	while (at < bytes) {
		ssize_t n;

		wait_for(fd, POLLIN);
		n = recv(fd, (uint8_t *)into + at, bytes - at, 0);
		if (n <= 0)
			return false;
		at += (size_t)n;
	}

	return true;
}

struct cs_wire_head peer_receive(int fd, void *payload)
{
	struct cs_wire_head head;

	if (!receive_all(fd, &head, sizeof(head)))
		fail_msg("the agent has closed the connection");
	assert_true(head.bytes <= CS_WIRE_MAX);
	if (!receive_all(fd, payload, head.bytes))
		fail_msg("the agent has closed the connection within a message");
	((uint8_t *)payload)[head.bytes] = 0;
	return head;
}

size_t peer_expect(int fd, enum cs_wire_type type, void *payload)
{
	struct cs_wire_head head = peer_receive(fd, payload);

	assert_int_equal(head.type, type);
	return head.bytes;
}

void peer_expect_end(int fd)
{
	uint8_t part[4096];
	ssize_t n;

	do {
		wait_for(fd, POLLIN);
		n = recv(fd, part, sizeof(part), 0);
	} while (n > 0);
	assert_true(n == 0 || errno == ECONNRESET);
}

/* ---- exec ---- */

size_t peer_put_list(uint8_t *at, const char *const *list)
{
	uint32_t n = 0;
	size_t used = sizeof(n);

	for (; list && list[n]; n++) {
		size_t bytes = strlen(list[n]) + 1;

		memcpy(at + used, list[n], bytes);
		used += bytes;
	}
	memcpy(at, &n, sizeof(n));
	return used;
}

void peer_exec(int fd, const struct peer_exec *e)
{
	const struct cs_wire_exec head = { .flags = e->tty ? CS_WIRE_EXEC_TTY : 0,
					   .size = { e->rows, e->columns } };
	const char *user = e->user ? e->user : "", *folder = e->folder ? e->folder : "";
	uint8_t payload[CS_WIRE_MAX];
	size_t n = sizeof(head);

	memcpy(payload, &head, n);
	memcpy(payload + n, user, strlen(user) + 1);
	n += strlen(user) + 1;
	memcpy(payload + n, folder, strlen(folder) + 1);
	n += strlen(folder) + 1;
	n += peer_put_list(payload + n, e->argv);
	n += peer_put_list(payload + n, e->env);
	peer_send(fd, CS_WIRE_EXEC, payload, n);
}

static void append(uint8_t **to, size_t *n, const uint8_t *data, size_t bytes)
{
	size_t room = 65536, need = 65536;

	/* Twice the room each time it runs out: tests move a lot. */
	while (room < *n + 1)
		room *= 2;
	while (need < *n + bytes + 1)
		need *= 2;
	if (!*to || need > room) {
		*to = realloc(*to, need);
		assert_non_null(*to);
	}
	memcpy(*to + *n, data, bytes);
	*n += bytes;
	(*to)[*n] = 0;
}

/* One message; true: it was the last. */
static bool gather(struct peer_result *r, struct cs_wire_head head, const uint8_t *payload,
		   uint64_t *credit)
{
	uint32_t number = 0;

	if (head.bytes >= 4)
		memcpy(&number, payload, 4);
	switch (head.type) {
	case CS_WIRE_STARTED:
		assert_true(number > 0);
		return false;
	case CS_WIRE_STDOUT:
		append(&r->out, &r->n_out, payload, head.bytes);
		return false;
	case CS_WIRE_STDERR:
		append(&r->err, &r->n_err, payload, head.bytes);
		return false;
	case CS_WIRE_CREDIT:
		r->credit += number;
		*credit += number;
		return false;
	case CS_WIRE_EXIT:
		r->status = number;
		return true;
	case CS_WIRE_FAIL:
		r->failed = true;
		r->status = number;
		snprintf(r->words, sizeof(r->words), "%s", (const char *)payload + 4);
		return true;
	default:
		fail_msg("an unexpected message of type %u", head.type);
		return true;
	}
}

struct peer_result peer_finish(int fd, const void *input, size_t bytes)
{
	struct peer_result r = { 0 };
	uint64_t credit = CS_WIRE_STDIN_CREDIT;
	const uint8_t *at = input;
	uint8_t *payload = malloc(CS_WIRE_MAX + 1), none = 0;
	bool ended = false, last = false;

	assert_non_null(payload);
	append(&r.out, &r.n_out, &none, 0);
	append(&r.err, &r.n_err, &none, 0);
	while (!last) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		size_t part = bytes < credit ? bytes : credit;

		part = part < CS_WIRE_MAX ? part : CS_WIRE_MAX;
		if (!ended && (part || !bytes)) {
			peer_send(fd, CS_WIRE_STDIN, at, part);
			ended = !bytes;
			at += part;
			bytes -= part;
			credit -= part;
			if (!poll(&p, 1, 0))
				continue;
		}
		last = gather(&r, peer_receive(fd, payload), payload, &credit);
	}

	peer_expect_end(fd);
	close(fd);
	free(payload);
	return r;
}

void peer_result_free(struct peer_result *r)
{
	free(r->out);
	free(r->err);
}

struct peer_result peer_shell(const struct peer_agent *a, const char *script)
{
	int fd = peer_connect(a);

	peer_exec(fd, &(struct peer_exec){ .argv = (const char *[]){ "sh", "-c", script, NULL } });
	return peer_finish(fd, NULL, 0);
}

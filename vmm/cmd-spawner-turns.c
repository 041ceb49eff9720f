/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The order in which many guests that are started at once wake: a chain of pipes. Each guest holds
 * the end for writing of one, and waits for the end of that of the guest so many before it: which
 * comes when that one is awake, or its monitor is dead, whatever killed it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "vmm/cmd-spawner.h"

size_t cs_spawner_runnable(void)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	uint64_t n = 0;
	char *from, *end;

	if (cs_read_file_at(AT_FDCWD, "/proc/loadavg", 128, &text, NULL) < 0)
		return 0;
	end = strchr(text, '/');
	if (!end)
		return 0;
	*end = '\0';
	from = strrchr(text, ' ');
	return from && cs_parse_u64(from + 1, UINT32_MAX, &n) == 0 ? n : 0;
}

struct cs_spawner_turns {
	int gate_fd;  /* the first wait for the end of this one */
	size_t n, at; /* so many at once; whose end the next waits for */
	int read_fd[];
};

static int fail(struct cs_err *err)
{
	return cs_fail_errno(err, errno, "cannot make a pipe (raise ulimit -n)");
}

/* A pipe, its end for reading out of the way of monitors. */
static int make_pipe(int *ret_read_fd, int *ret_write_fd)
{
	int pipes[2], saved;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return -1;
	*ret_read_fd = cs_spawner_raise_fd(pipes[0]);
	*ret_write_fd = pipes[1];
	if (*ret_read_fd >= 0)
		return 0;
	saved = errno;
	close(pipes[1]);
	errno = saved;
	return -1;
}

int cs_spawner_turns_create(size_t at_once, struct cs_spawner_turns **ret, struct cs_err *err)
{
	cs_auto(cs_spawner_turns_freep) struct cs_spawner_turns *turns =
		calloc(1, sizeof(*turns) + at_once * sizeof(int));
	int gate_fd;

	if (!turns)
		return cs_fail_errno(err, ENOMEM, "cannot start so many guests");
	turns->n = at_once;
	for (size_t i = 0; i < at_once; i++)
		turns->read_fd[i] = -1;
	if (make_pipe(&turns->read_fd[0], &gate_fd) < 0)
		return fail(err);
	turns->gate_fd = cs_spawner_raise_fd(gate_fd);
	if (turns->gate_fd < 0)
		return fail(err);
	for (size_t i = 1; i < at_once; i++) {
		turns->read_fd[i] = fcntl(turns->read_fd[0], F_DUPFD_CLOEXEC, CS_SPAWNER_FD_BASE);
		if (turns->read_fd[i] < 0)
			return fail(err);
	}
	*ret = cs_steal(turns);
	return 0;
}

int cs_spawner_turns_next(struct cs_spawner_turns *turns, int *ret_turn_fd, int *ret_over_fd,
			  struct cs_err *err)
{
	cs_auto(cs_fd_closep) int turn_fd = -1;
	int *at = &turns->read_fd[turns->at], read_fd, over_fd;

	turn_fd = fcntl(*at, F_DUPFD_CLOEXEC, 3);
	if (turn_fd < 0 || make_pipe(&read_fd, &over_fd) < 0)
		return fail(err);
	close(*at);
	*at = read_fd;
	turns->at = (turns->at + 1) % turns->n;
	*ret_turn_fd = cs_steal_fd(&turn_fd);
	*ret_over_fd = over_fd;
	return 0;
}

void cs_spawner_turns_begin(struct cs_spawner_turns *turns)
{
	if (turns)
		cs_fd_closep(&turns->gate_fd);
}

struct cs_spawner_turns *cs_spawner_turns_free(struct cs_spawner_turns *turns)
{
	if (!turns)
		return NULL;
	cs_fd_closep(&turns->gate_fd);
	for (size_t i = 0; i < turns->n; i++)
		cs_fd_closep(&turns->read_fd[i]);
	free(turns);
	return NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A world for the course of a save, for the tests that include this. The machine has memory, a
 * device and no vCPUs; agent and control socket are played, KVM agrees to everything (wrapped at
 * link time); the process that writes is a real one. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/driver.h"
#include "vmm/kvm-private.h"
#include "vmm/machine-private.h"
#include "vmm/snapshot-memory.h"
#include "vmm/virtio-devices.h"

#define PAGE ((size_t)CS_PAGE_BYTES)

static struct played {
	int freeze;  /* what cs_agent_freeze() returns */
	int ficlone; /* errno of a clone; 0: good */
	bool die;    /* the writer is killed */
	bool wait;   /* the writer waits until it is given up */
	bool held;   /* the client holds the machine */
	bool lost;   /* the agent is gone */

	unsigned frozen, thawed, answers, clones;
	uint32_t flags;
	struct cs_err why;
	char text[128];
} played;

int __wrap_cs_agent_freeze(struct cs_agent *agent, uint32_t flags);
void __wrap_cs_control_answer_held(struct cs_control_client *client, const char *text);
int __wrap_cs_agent_thaw(struct cs_agent *agent);
bool __wrap_cs_agent_is_ready(const struct cs_agent *agent);
void __real_cs_timer_set(struct cs_timer *timer, uint64_t ms);
void __wrap_cs_timer_set(struct cs_timer *timer, uint64_t ms);
void __wrap_cs_control_answer(struct cs_control_client *client, const char *text,
			      const struct cs_err *why);
int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __real_cs_picture_write(const struct cs_picture *picture, int fd, bool (*go_on)(void *),
			    void *arg, struct cs_picture_count *ret, struct cs_err *err);
int __wrap_cs_picture_write(const struct cs_picture *picture, int fd, bool (*go_on)(void *),
			    void *arg, struct cs_picture_count *ret, struct cs_err *err);

int __wrap_cs_agent_freeze(struct cs_agent *agent, uint32_t flags)
{
	played.frozen++;
	played.flags = flags;
	return played.freeze;
}

int __wrap_cs_agent_thaw(struct cs_agent *agent)
{
	played.thawed++;
	return 0;
}

bool __wrap_cs_agent_is_ready(const struct cs_agent *agent)
{
	return !played.lost;
}

/* Time flies. */
void __wrap_cs_timer_set(struct cs_timer *timer, uint64_t ms)
{
	__real_cs_timer_set(timer, ms ? 1 + ms / 100 : 0);
}

void __wrap_cs_control_answer(struct cs_control_client *client, const char *text,
			      const struct cs_err *why)
{
	assert_ptr_equal(client, &played);
	played.answers++;
	played.why = why ? *why : (struct cs_err){ 0 };
	strncpy(played.text, text, sizeof(played.text) - 1);
}

void __wrap_cs_control_answer_held(struct cs_control_client *client, const char *text)
{
	played.held = true;
	__wrap_cs_control_answer(client, text, NULL);
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	if (request == FICLONE) {
		played.clones++;
		errno = played.ficlone;
		return played.ficlone ? -1 : 0;
	}
	return _IOC_TYPE(request) == KVMIO ? 0 : __real_ioctl(fd, request, arg);
}

int __wrap_cs_picture_write(const struct cs_picture *picture, int fd, bool (*go_on)(void *),
			    void *arg, struct cs_picture_count *ret, struct cs_err *err)
{
	if (played.die)
		raise(SIGKILL);
	while (played.wait && go_on(arg))
		;
	return __real_cs_picture_write(picture, fd, go_on, arg, ret, err);
}

/* ---- the machine */

struct world {
	struct fake_guest guest; /* its memory, loop and device */
	struct cs_host_kvm kvm;
	struct cs_machine machine;
	struct cs_disk disk;
	int memory, state, clone; /* copies of what the save has */
};

static void fill_machine(struct world *w)
{
	struct cs_machine *m = &w->machine;

	m->spec.kvm = &w->kvm;
	m->mem = w->guest.mem;
	m->vm_fd = -1;
	m->lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	m->unpaused = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
	m->one_parked = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
	m->loop = w->guest.loop;
	m->device[0] = w->guest.mmio;
	m->devices = 1;
	m->pagemap_fd = cs_pagemap_open();
}

static int setup(void **state)
{
	struct world *w = test_calloc(1, sizeof(*w));
	struct cs_virtio *dev = NULL;

	memset(&played, 0, sizeof(played));
	fake_open(&w->guest);
	assert_int_equal(cs_virtio_rng_create(&dev, NULL), 0);
	fake_plug(&w->guest, dev);
	fill_machine(w);
	memset(fake_at(&w->guest, 0), 'a', PAGE);
	memset(fake_at(&w->guest, FAKE_SEG_BYTES + PAGE), 'b', PAGE);
	w->memory = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	w->state = memfd_create("state", MFD_CLOEXEC);
	w->clone = memfd_create("disk", MFD_CLOEXEC);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	cs_snapshot_free(w->machine.snapshot);
	close(w->machine.pagemap_fd);
	fake_close(&w->guest);
	close(w->memory);
	close(w->state);
	close(w->clone);
	test_free(w);
	return 0;
}

static int begin(struct world *w, const char *words, size_t n, struct cs_err *err)
{
	const int from[] = { w->memory, w->state, w->clone };
	int fds[3] = { -1, -1, -1 }, r;

	for (size_t i = 0; i < n; i++)
		fds[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 3);
	*err = (struct cs_err){ 0 };
	r = cs_snapshot_begin(&w->machine, (struct cs_control_client *)&played, fds, n, words, err);
	for (size_t i = 0; i < n && r < 0; i++)
		close(fds[i]); /* the caller's still */
	assert_int_equal(r < 0 ? -r : 0, err->code);
	return r;
}

/* Until the save is over. */
static void finish(struct world *w)
{
	for (int i = 0; i < 10000 && w->machine.snapshot; i++) {
		fake_settle(&w->guest);
		if (w->machine.snapshot)
			usleep(1000);
	}
	assert_null(w->machine.snapshot);
	/* Nobody is left behind. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For the tests of cow/: a store in a scratch folder, guests in it, processes that play monitors.
 */
#pragma once

#include <signal.h>
#include <sys/wait.h>

#include "cow/overlay.h"
#include "store/base/num.h"
#include "tests/fake/store.h"
#include "tests/unit/scratch.h"

#define DISK_BYTES (4 * CS_MIB)

struct cow {
	struct scratch *scratch;
	struct cs_store *store;
	struct cs_template *t;
	int guests_fd, kernel_fd, root_fd, disk_fd;
};

static inline int cow_part(struct cow *cow, const char *name, uint64_t bytes)
{
	int fd = openat(cow->scratch->fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	assert_int_equal(cs_pwrite_full(fd, name, strlen(name), 0), 0);
	return fd;
}

static inline int cow_make(void **state)
{
	struct cow *cow = calloc(1, sizeof(*cow));

	scratch_make((void **)&cow->scratch);
	cow->store = cs_fake_store(cow->scratch->fd);
	assert_non_null(cow->store);
	cow->guests_fd = cs_store_guests_fd(cow->store);
	cow->t = cs_fake_template();
	cow->kernel_fd = cow_part(cow, "kernel", 4096);
	cow->root_fd = cow_part(cow, "root", 2 * CS_MIB);
	cow->disk_fd = cow_part(cow, "disk", DISK_BYTES);
	cs_fake_template_part(cow->t, CS_PART_KERNEL, cow->kernel_fd, 4096);
	cs_fake_template_part(cow->t, CS_PART_ROOT, cow->root_fd, 2 * CS_MIB);
	cs_fake_template_part(cow->t, CS_PART_DISK, cow->disk_fd, DISK_BYTES);
	*state = cow;
	return 0;
}

static inline int cow_remove(void **state)
{
	struct cow *cow = *state;

	cs_template_free(cow->t);
	cs_store_free(cow->store);
	close(cow->kernel_fd);
	close(cow->root_fd);
	close(cow->disk_fd);
	scratch_remove((void **)&cow->scratch);
	free(cow);
	return 0;
}

/* A card as `spawn` would fill it. */
static inline struct cs_card cow_card(const char *guest)
{
	struct cs_card card = {
		.template = "debian",
		.version = "1",
		.ram_bytes = 128 * CS_MIB,
		.vcpus = 1,
		.created = 1700000000,
	};

	snprintf(card.guest, sizeof(card.guest), "%s", guest);
	return card;
}

static inline void cow_create(struct cow *cow, const char *guest)
{
	const struct cs_card card = cow_card(guest);
	struct cs_err err = { .code = 0 };

	if (cs_overlay_create(cow->store, cow->t, &card, &err) < 0)
		fail_msg("%s", err.text);
}

static inline struct cs_card *cow_load(struct cow *cow, const char *guest)
{
	struct cs_card *card = NULL;
	struct cs_err err = { .code = 0 };

	if (cs_card_load(cow->store, guest, &card, &err) < 0)
		fail_msg("%s", err.text);
	return card;
}

/* A process that does nothing until it is killed; it dies with us. */
static inline pid_t cow_monitor(void)
{
	int ends[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		close(ends[0]);
		assert_int_equal(write(ends[1], "x", 1), 1);
		alarm(300);
		for (;;)
			pause();
	}
	close(ends[1]);
	assert_int_equal(read(ends[0], &byte, 1), 1);
	close(ends[0]);
	return pid;
}

static inline void cow_kill(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* Enter (pid) as the monitor of (guest). */
static inline void cow_start(struct cow *cow, const char *guest, pid_t pid)
{
	cs_auto(cs_card_freep) struct cs_card *card = cow_load(cow, guest);
	struct cs_err err = { .code = 0 };

	if (cs_card_start(cow->store, card, pid, &err) < 0)
		fail_msg("%s", err.text);
}

/* Put (text) into (file) of (guest). */
static inline void cow_write(struct cow *cow, const char *guest, const char *file, const char *text)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", guest, file);
	scratch_write(cow->guests_fd, path, text);
}

static inline bool cow_has(struct cow *cow, const char *guest, const char *file)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", guest, file);
	return !cs_missing_at(cow->guests_fd, path);
}

#define COW_TEST(test) cmocka_unit_test_setup_teardown(test, cow_make, cow_remove)

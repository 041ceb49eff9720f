/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest's folder comes whole and goes whole: also when its maker is killed, or is not alone. */
#include <errno.h>
#include <sys/file.h>
#include <time.h>

#include "tests/unit/cow-guest.h"

static void test_create(void **state)
{
	struct cow *cow = *state;
	struct cs_card card = cow_card("web"), *got;
	mode_t mask = umask(077);
	struct stat st;

	/* of no concern to a new guest */
	card.pid = 1;
	card.started = 5;
	card.disk_bytes = 99;
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, NULL), 0);
	umask(mask);
	got = cow_load(cow, "web");
	assert_int_equal(got->pid, 0);
	assert_int_equal(got->started, 0);
	assert_int_equal(got->disk_bytes, 0);
	cs_card_free(got);
	assert_int_equal(fstatat(cow->guests_fd, "web", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0711);
	assert_int_equal(fstatat(cow->guests_fd, "web/card.json", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(scratch_count(cow->guests_fd, "web"), 1);
	assert_int_equal(scratch_count(cow->guests_fd, ".marks"), 0);
}

static void test_persist(void **state)
{
	struct cow *cow = *state;
	struct cs_card card = cow_card("web"), *got;
	struct cs_overlay *overlay = NULL;
	struct stat st;
	char back[4];

	card.persist = true;
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, NULL), 0);
	got = cow_load(cow, "web");
	assert_true(got->persist);
	assert_int_equal(got->disk_bytes, DISK_BYTES);
	assert_int_equal(fstatat(cow->guests_fd, "web/disk", &st, 0), 0);
	assert_int_equal(st.st_size, DISK_BYTES);
	assert_int_equal(st.st_mode & 07777, 0600);

	assert_int_equal(cs_overlay_open(cow->store, cow->t, got, &overlay, NULL), 0);
	assert_non_null(cs_overlay_disk(overlay));
	assert_int_equal(cs_overlay_disk(overlay)->bytes, DISK_BYTES);
	assert_false(cs_overlay_disk(overlay)->read_only);
	/* private, and still there the next time */
	assert_int_equal(cs_pwrite_full(cs_overlay_disk(overlay)->fd, "mine", 4, 0), 0);
	overlay = cs_overlay_free(overlay);
	assert_int_equal(cs_pread_full(cow->disk_fd, back, 4, 0), 0);
	assert_memory_equal(back, "disk", 4);
	assert_int_equal(cs_overlay_open(cow->store, cow->t, got, &overlay, NULL), 0);
	assert_int_equal(cs_pread_full(cs_overlay_disk(overlay)->fd, back, 4, 0), 0);
	assert_memory_equal(back, "mine", 4);
	cs_overlay_free(overlay);
	cs_card_free(got);
}

static void test_open_and_map(void **state)
{
	struct cow *cow = *state;
	struct cs_card card = cow_card("web");
	struct cs_overlay *overlay = NULL;
	const struct cs_ram *ram;
	const struct cs_boot *boot;
	struct stat st, there;

	cow_create(cow, "web");
	assert_int_equal(cs_overlay_open(cow->store, cow->t, &card, &overlay, NULL), 0);
	ram = cs_overlay_ram(overlay);
	assert_int_equal(ram->n, 2);
	assert_null(ram->seg[0].host);
	assert_int_equal(ram->seg[0].bytes, 128 * CS_MIB);
	assert_int_equal(ram->seg[1].backing, CS_BACKING_SHARED);
	assert_int_equal(ram->seg[1].bytes, 2 * CS_MIB);
	assert_null(cs_overlay_disk(overlay));
	boot = cs_overlay_boot(overlay);
	assert_int_equal(boot->kernel_fd, cow->kernel_fd);
	assert_int_equal(boot->initrd_fd, -1);
	assert_int_equal(boot->state_fd, -1);
	assert_string_equal(boot->cmdline, "quiet");
	assert_true(boot->stock_kernel);
	assert_int_equal(fstat(cs_overlay_dirfd(overlay), &st), 0);
	assert_int_equal(fstatat(cow->guests_fd, "web", &there, 0), 0);
	assert_int_equal(st.st_ino, there.st_ino);

	assert_int_equal(cs_overlay_map(overlay, NULL), 0);
	assert_int_equal(cs_overlay_map(overlay, NULL), 0);
	((char *)ram->seg[0].host)[5] = 1;
	assert_memory_equal(ram->seg[1].host, "root", 4);
	assert_null(cs_overlay_free(overlay));
	assert_null(cs_overlay_free(NULL));
	/* the template's descriptors are not ours to close */
	assert_int_equal(fstat(cow->kernel_fd, &st), 0);
	assert_int_equal(fstat(cow->root_fd, &st), 0);
}

/* Pages of this process that are its own, of (pages) at (host). */
static size_t own_pages(const char *host, size_t pages)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t n = 0;

	assert_true(fd >= 0);
	for (size_t i = 0; i < pages; i++) {
		const uint64_t at = ((uintptr_t)host / CS_PAGE_BYTES + i) * 8;
		uint64_t entry;

		assert_int_equal(pread(fd, &entry, 8, (off_t)at), 8);
		n += (entry >> 63 & 1) && !(entry >> 61 & 1); /* there, and of no file */
	}
	close(fd);
	return n;
}

/* Only one that goes on from its template's memory knows what it is going to write to. */
static void test_hot_pages(void **state)
{
	struct cow *cow = *state;
	struct cs_card card = cow_card("web");
	int memory_fd = cow_part(cow, "template-memory", 128 * CS_MIB);
	int state_fd = cow_part(cow, "template-state", 4096);

	cow_create(cow, "web");
	cs_fake_template_part(cow->t, CS_PART_MEMORY, memory_fd, 128 * CS_MIB);
	cs_fake_template_part(cow->t, CS_PART_STATE, state_fd, 4096);
	cs_fake_template_hot(cow->t, 7, 3, 2);
	for (int resume = 0; resume < 2; resume++) {
		struct cs_overlay *overlay = NULL;
		const struct cs_page_range *seen;
		const char *host;
		size_t n;

		card.resume = resume;
		assert_int_equal(cs_overlay_open(cow->store, cow->t, &card, &overlay, NULL), 0);
		cs_overlay_expect_exec(overlay); /* not mapped yet: nothing to be done */
		assert_int_equal(cs_overlay_map(overlay, NULL), 0);
		host = cs_overlay_ram(overlay)->seg[0].host;
		assert_int_equal(own_pages(host, 64), resume ? 3 : 0);
		assert_int_equal(own_pages(host + 7 * CS_PAGE_BYTES, 3), resume ? 3 : 0);
		cs_overlay_expect_exec(overlay);
		assert_int_equal(own_pages(host, 64), resume ? 5 : 0);
		seen = cs_overlay_use(overlay, CS_USE_WAKE, &n);
		assert_int_equal(n, resume);
		assert_true(!resume || (seen[0].first == 7 && seen[0].pages == 4));
		cs_overlay_use(overlay, CS_USE_EXEC_READ, &n);
		assert_int_equal(n, 0);
		seen = cs_overlay_use(overlay, CS_USE_EXEC_WRITE, &n);
		assert_int_equal(n, resume);
		assert_true(!resume || (seen[0].first == 10 && seen[0].pages == 2));
		cs_overlay_free(overlay);
	}
	close(memory_fd);
	close(state_fd);
}

static void test_with_initrd_and_without_root(void **state)
{
	struct cow *cow = *state;
	struct cs_card card = cow_card("web");
	struct cs_overlay *overlay = NULL;

	cow_create(cow, "web");
	cs_fake_template_part(cow->t, CS_PART_INITRD, cow->kernel_fd, 100);
	cs_fake_template_part(cow->t, CS_PART_ROOT, -1, 0);
	assert_int_equal(cs_overlay_open(cow->store, cow->t, &card, &overlay, NULL), 0);
	assert_int_equal(cs_overlay_boot(overlay)->initrd_fd, cow->kernel_fd);
	assert_int_equal(cs_overlay_ram(overlay)->n, 1);
	assert_int_equal(cs_overlay_map(overlay, NULL), 0);
	cs_overlay_free(overlay);
}

static void test_create_refuses(void **state)
{
	static const char *const names[] = { "", "../x", "a/b", ".marks", "-x", "new\n" };
	struct cow *cow = *state;
	struct cs_err err = { .code = 0 };
	struct cs_card card;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		card = cow_card(names[i]);
		assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, &err), -EINVAL);
	}
	card = cow_card("web");
	card.ram_bytes = 1024;
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, &err), -EINVAL);
	assert_memory_equal(err.text, "guest 'web': memory 1.0 KiB", 27);
	card.ram_bytes = UINT64_MAX - 4095;
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, &err), -ERANGE);
	card = cow_card("web");
	card.vcpus = 5000;
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, &err), -EINVAL);
	card = cow_card("web");
	card.persist = true;
	cs_fake_template_part(cow->t, CS_PART_DISK, -1, 0);
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, &err), -ENOENT);
	assert_memory_equal(err.text, "guest 'web': template 'debian' has no disk", 42);
	cs_fake_template_part(cow->t, CS_PART_DISK, -1, 512);
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, &err), -EBADF);
	/* nothing half is left */
	assert_int_equal(scratch_count(cow->guests_fd, ".marks"), 0);
	assert_int_equal(scratch_count(cow->guests_fd, "."), 1);
}

static void test_name_is_taken(void **state)
{
	struct cow *cow = *state;
	struct cs_card card = cow_card("web");
	struct cs_err err = { .code = 0 };

	cow_create(cow, "web");
	card.vcpus = 2;
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, &err), -EEXIST);
	assert_memory_equal(err.text, "guest 'web': there is one of this name", 38);
	scratch_write(cow->guests_fd, "file", "");
	card = cow_card("file");
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, &err), -EEXIST);
	/* a broken guest keeps its name */
	cow_create(cow, "broken");
	cow_write(cow, "broken", "card.json", "");
	card = cow_card("broken");
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, &err), -EEXIST);
}

static void test_open_refuses(void **state)
{
	struct cow *cow = *state;
	struct cs_card card = cow_card("web");
	struct cs_overlay *overlay = NULL;
	struct cs_err err = { .code = 0 };

	assert_int_equal(cs_overlay_open(cow->store, cow->t, &card, &overlay, &err), -ENOENT);
	cow_create(cow, "web");
	snprintf(card.version, sizeof(card.version), "2");
	assert_int_equal(cs_overlay_open(cow->store, cow->t, &card, &overlay, &err), -EINVAL);
	assert_non_null(strstr(err.text, "debian@2"));
	card = cow_card("web");
	card.persist = true;
	assert_int_equal(cs_overlay_open(cow->store, cow->t, &card, &overlay, &err), -ENOENT);
	cow_write(cow, "web", "disk", "no sectors");
	assert_int_equal(cs_overlay_open(cow->store, cow->t, &card, &overlay, &err), -EBADMSG);
	assert_int_equal(unlinkat(cow->guests_fd, "web/disk", 0), 0);
	assert_int_equal(symlinkat("/etc/passwd", cow->guests_fd, "web/disk"), 0);
	assert_int_equal(cs_overlay_open(cow->store, cow->t, &card, &overlay, &err), -ELOOP);
	card = cow_card("web");
	cs_fake_template_part(cow->t, CS_PART_KERNEL, -1, 0);
	assert_int_equal(cs_overlay_open(cow->store, cow->t, &card, &overlay, &err), -ENOENT);
	assert_null(overlay);
}

static void test_short_root(void **state)
{
	struct cow *cow = *state;
	struct cs_card card = cow_card("web");
	struct cs_overlay *overlay = NULL;
	struct cs_err err = { .code = 0 };

	cow_create(cow, "web");
	assert_int_equal(ftruncate(cow->root_fd, CS_MIB), 0);
	assert_int_equal(cs_overlay_open(cow->store, cow->t, &card, &overlay, NULL), 0);
	assert_int_equal(cs_overlay_map(overlay, &err), -EINVAL);
	assert_non_null(strstr(err.text, "too short"));
	assert_null(cs_overlay_ram(overlay)->seg[0].host);
	cs_overlay_free(overlay);
}

static void test_remove(void **state)
{
	struct cow *cow = *state;
	struct cs_err err = { .code = 0 };
	pid_t pid = cow_monitor();

	cow_create(cow, "web");
	cow_start(cow, "web", pid);
	assert_int_equal(cs_overlay_remove(cow->store, "web", &err), -EBUSY);
	assert_memory_equal(err.text, "guest 'web': runs", 17);
	cow_kill(pid);
	cow_write(cow, "web", "vsock.sock_52", "");
	assert_int_equal(scratch_count(cow->guests_fd, ".marks"), 1);
	assert_int_equal(cs_overlay_remove(cow->store, "web", &err), 0);
	assert_true(cs_missing_at(cow->guests_fd, "web"));
	assert_int_equal(scratch_count(cow->guests_fd, ".marks"), 0);
	assert_int_equal(cs_overlay_remove(cow->store, "web", &err), -ENOENT);
	assert_int_equal(cs_overlay_remove(cow->store, "../guests", &err), -EINVAL);
	cow_create(cow, "web");
}

static void test_remove_broken(void **state)
{
	struct cow *cow = *state;
	int dirfd, fd = -1;

	cow_create(cow, "web");
	cow_write(cow, "web", "card.json", "{\"format\": 2}");
	dirfd = openat(cow->guests_fd, "web", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* its card tells nothing, but there is a monitor */
	assert_int_equal(cs_card_open_exit(dirfd, &fd), 0);
	assert_int_equal(cs_overlay_remove(cow->store, "web", NULL), -EBUSY);
	close(fd);
	close(dirfd);
	assert_int_equal(cs_overlay_remove(cow->store, "web", NULL), 0);
	assert_int_equal(scratch_count(cow->guests_fd, "."), 1);
}

static void test_remove_over_a_leftover(void **state)
{
	struct cow *cow = *state;

	cow_create(cow, "web");
	assert_int_equal(cs_mkdir_path(cow->guests_fd, ".marks/old-web/x/y", 0700), 0);
	assert_int_equal(cs_overlay_remove(cow->store, "web", NULL), 0);
	assert_int_equal(scratch_count(cow->guests_fd, ".marks"), 0);
}

static void test_create_over_a_leftover(void **state)
{
	struct cow *cow = *state;

	assert_int_equal(cs_mkdir_path(cow->guests_fd, ".marks/new-web/x/y", 0700), 0);
	scratch_write(cow->guests_fd, ".marks/new-web/disk", "half");
	cow_create(cow, "web");
	assert_int_equal(scratch_count(cow->guests_fd, "web"), 1);
	assert_int_equal(scratch_count(cow->guests_fd, ".marks"), 0);
}

/* Six make the same guest at once: one does, and it is whole. */
static void test_create_race(void **state)
{
	struct cow *cow = *state;
	int status, made = 0;

	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 6; i++) {
			struct cs_card card = cow_card("web");
			pid_t pid = fork();
			int r;

			assert_true(pid >= 0);
			if (pid)
				continue;
			card.vcpus = (unsigned)i + 1;
			card.persist = i % 2;
			r = cs_overlay_create(cow->store, cow->t, &card, NULL);
			_exit(r == 0 ? 1 : r == -EEXIST ? 0 : 2);
		}
		made = 0;
		for (int i = 0; i < 6; i++) {
			assert_true(wait(&status) > 0);
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
			made += WEXITSTATUS(status);
		}
		assert_int_equal(made, 1);
		struct cs_card *card = cow_load(cow, "web");

		assert_int_equal(card->persist, cow_has(cow, "web", "disk"));
		cs_card_free(card);
		assert_int_equal(scratch_count(cow->guests_fd, ".marks"), 0);
		assert_int_equal(cs_overlay_remove(cow->store, "web", NULL), 0);
	}
}

/* Make and remove until we are killed. */
static void make_and_remove(struct cow *cow)
{
	struct cs_card card = cow_card("web");

	card.persist = true;
	for (;;) {
		cs_overlay_create(cow->store, cow->t, &card, NULL);
		cs_overlay_remove(cow->store, "web", NULL);
	}
}

static void test_killed_anywhere(void **state)
{
	struct cow *cow = *state;
	struct cs_err err = { .code = 0 };
	unsigned seed = 7;

	for (int round = 0; round < 60; round++) {
		struct timespec pause = { .tv_nsec = 0 };
		struct cs_card *card = NULL;
		pid_t pid = fork();
		int r;

		assert_true(pid >= 0);
		if (!pid)
			make_and_remove(cow);
		seed = seed * 1103515245 + 12345;
		pause.tv_nsec = 200000 + (seed >> 8) % 6000000;
		nanosleep(&pause, NULL);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		/* there and whole, or not there */
		r = cs_card_load(cow->store, "web", &card, &err);
		if (r == 0) {
			assert_int_equal(card->disk_bytes, DISK_BYTES);
			assert_true(cow_has(cow, "web", "disk"));
			cs_card_free(card);
		} else {
			assert_int_equal(r, -ENOENT);
		}
		assert_int_equal(cs_overlay_sweep(cow->store, &err), 0);
		/* nothing but the note that this boot was looked at */
		assert_int_equal(scratch_count(cow->guests_fd, ".marks"), 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		COW_TEST(test_create),
		COW_TEST(test_persist),
		COW_TEST(test_open_and_map),
		COW_TEST(test_hot_pages),
		COW_TEST(test_with_initrd_and_without_root),
		COW_TEST(test_create_refuses),
		COW_TEST(test_name_is_taken),
		COW_TEST(test_open_refuses),
		COW_TEST(test_short_root),
		COW_TEST(test_remove),
		COW_TEST(test_remove_broken),
		COW_TEST(test_remove_over_a_leftover),
		COW_TEST(test_create_over_a_leftover),
		COW_TEST(test_create_race),
		COW_TEST(test_killed_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

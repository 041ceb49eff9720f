/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Machines that wait for a name: who may take one, what becomes of it, and what a kill leaves. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "cow/life.h"
#include "cow/spare.h"
#include "tests/unit/cow-guest.h"

struct waiter {
	pid_t pid;
	int fd; /* what it says to its keeper */
};

static int listen_in(int dirfd)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* NOLINTNEXTLINE */
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/control.sock",
		 dirfd);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 8) < 0)
		_exit(2);
	return fd;
}

/* As a monitor would: says W, then T and to who took it R and its name and command. */
static _Noreturn void be_spare(struct cow *cow, int keeper_fd)
{
	struct cs_card *card = NULL;
	int dirfd, lock_fd, fd, listen_fd;

	alarm(300);
	signal(SIGPIPE, SIG_IGN);
	if (cs_spare_make(cow->store, &dirfd, &lock_fd, NULL) < 0)
		_exit(3);
	listen_fd = listen_in(dirfd);
	cs_write_full(keeper_fd, "W", 1);
	if (cs_spare_await(listen_fd, keeper_fd, getuid(), &card, &fd, NULL) < 0)
		_exit(4);
	cs_write_full(keeper_fd, "T", 1);
	close(lock_fd);
	dprintf(fd, "R%s %s", card->guest, card->command ? card->command[0] : "-");
	close(fd);
	for (;;)
		pause();
}

static struct waiter keep(struct cow *cow)
{
	struct waiter waiter;
	int ends[2];
	char byte = 0;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	waiter.pid = fork();
	assert_true(waiter.pid >= 0);
	if (!waiter.pid) {
		close(ends[0]);
		be_spare(cow, ends[1]);
	}
	close(ends[1]);
	waiter.fd = ends[0];
	assert_int_equal(read(waiter.fd, &byte, 1), 1);
	assert_int_equal(byte, 'W');
	return waiter;
}

static struct waiter offer(struct cow *cow, const char *version)
{
	struct waiter waiter = keep(cow);
	struct cs_card card = cow_card("");
	struct cs_err err = { 0 };

	/* NOLINTNEXTLINE */
	snprintf(card.version, sizeof(card.version), "%s", version);
	if (cs_spare_offer(cow->store, waiter.pid, &card, &err) < 0)
		fail_msg("%s", err.text);
	return waiter;
}

static void end(const struct waiter *waiter)
{
	kill(waiter->pid, SIGKILL);
	waitpid(waiter->pid, NULL, 0);
	close(waiter->fd);
}

static size_t count(struct cow *cow)
{
	const struct cs_card card = cow_card("");

	return cs_spare_count(cow->store, &card);
}

static int take(struct cow *cow, const char *name, pid_t *pid, int *fd)
{
	static char *command[] = { (char *)"true", NULL };
	struct cs_card card = cow_card(name);

	card.command = command;
	return cs_spare_take(cow->store, cow->t, &card, pid, fd, NULL);
}

static void hear(int fd, const char *wanted)
{
	char said[100];
	size_t bytes = 0;
	ssize_t n;

	while ((n = read(fd, said + bytes, sizeof(said) - 1 - bytes)) > 0)
		bytes += (size_t)n;
	said[bytes] = '\0';
	assert_string_equal(said, wanted);
	close(fd);
}

static void test_taken(void **state)
{
	struct cow *cow = *state;
	struct waiter waiter = offer(cow, "1");
	struct cs_card *card;
	char byte;
	pid_t pid;
	int fd;

	assert_int_equal(count(cow), 1);
	assert_int_equal(take(cow, "web", &pid, &fd), 0);
	assert_int_equal(pid, waiter.pid);
	hear(fd, "Rweb true");
	assert_int_equal(read(waiter.fd, &byte, 1), 1);
	assert_int_equal(byte, 'T');
	assert_int_equal(count(cow), 0);
	assert_int_equal(take(cow, "web-2", &pid, &fd), -ENOENT);

	card = cow_load(cow, "web");
	assert_int_equal(card->state, CS_GUEST_RUNNING);
	assert_int_equal(card->pid, waiter.pid);
	assert_string_equal(card->command[0], "true");
	assert_true(card->started > 0);
	cs_card_free(card);
	/* It is a guest like others: nobody holds its folder, and it is swept when it is dead. */
	assert_int_equal(cs_guest_lock(cow->store, "web", false, &fd, NULL), 0);
	close(fd);
	assert_int_equal(cs_overlay_remove(cow->store, "web", NULL), -EBUSY);
	end(&waiter);
	assert_int_equal(cs_overlay_sweep(cow->store, NULL), 0);
	card = cow_load(cow, "web");
	assert_int_equal(card->state, CS_GUEST_CRASHED);
	cs_card_free(card);
	assert_int_equal(cs_overlay_remove(cow->store, "web", NULL), 0);
	assert_true(cs_missing_at(cow->guests_fd, "web"));
}

static void test_of_its_kind_only(void **state)
{
	struct cow *cow = *state;
	struct waiter waiter = offer(cow, "2");
	struct cs_card card = cow_card("web");
	pid_t pid;
	int fd;

	assert_int_equal(take(cow, "web", &pid, &fd), -ENOENT);
	assert_true(cs_missing_at(cow->guests_fd, "web"));
	memcpy(card.version, "2", 2);
	card.vcpus = 2;
	assert_int_equal(cs_spare_count(cow->store, &card), 0);
	card.vcpus = 1;
	card.ram_bytes *= 2;
	assert_int_equal(cs_spare_count(cow->store, &card), 0);
	card.ram_bytes /= 2;
	assert_int_equal(cs_spare_count(cow->store, &card), 1);
	assert_true(cs_spare_is_offered(cow->store, waiter.pid, &card));
	end(&waiter);
}

/* A name that is taken leaves the spare where it is. */
static void test_name_taken(void **state)
{
	struct cow *cow = *state;
	struct waiter waiter;
	pid_t pid;
	int fd;

	cow_create(cow, "web");
	waiter = offer(cow, "1");
	assert_int_equal(take(cow, "web", &pid, &fd), -EEXIST);
	assert_int_equal(count(cow), 1);
	assert_int_equal(take(cow, "../web", &pid, &fd), -EINVAL);
	assert_int_equal(take(cow, "other", &pid, &fd), 0);
	hear(fd, "Rother true");
	end(&waiter);
}

/* Who is dead is not taken, whoever has its pid now; and is swept. The living stay. */
static void test_dead(void **state)
{
	struct cow *cow = *state;
	struct waiter dead = offer(cow, "1"), alive, half;
	struct cs_card card = cow_card("");
	char name[100];
	pid_t pid;
	int fd;

	end(&dead);
	/* NOLINTNEXTLINE */
	snprintf(name, sizeof(name), ".spares/%d-1-%llu-debian@1", (int)getpid(),
		 (unsigned long long)card.ram_bytes);
	assert_int_equal(mkdirat(cow->guests_fd, name, 0711), 0);
	assert_int_equal(take(cow, "web", &pid, &fd), -ENOENT);
	assert_int_equal(count(cow), 2);

	alive = offer(cow, "1");
	half = keep(cow);
	assert_int_equal(cs_overlay_sweep(cow->store, NULL), 0);
	assert_int_equal(count(cow), 1);
	assert_int_equal(cs_spare_offer(cow->store, half.pid, &card, NULL), 0);
	assert_int_equal(count(cow), 2);
	assert_int_equal(take(cow, "web", &pid, &fd), 0);
	hear(fd, "Rweb true");
	end(&alive);
	end(&half);
	assert_int_equal(cs_overlay_sweep(cow->store, NULL), 0);
	assert_int_equal(count(cow), 0);
	assert_int_equal(scratch_count(cow->guests_fd, ".spares"), 0);
}

/* It stopped listening: it is ended, its guest taken out again, and the next one is taken. */
static void test_deaf(void **state)
{
	struct cow *cow = *state;
	struct waiter deaf = offer(cow, "1"), other;
	struct cs_card card = cow_card("");
	char name[120];
	pid_t pid;
	int fd;

	/* NOLINTNEXTLINE */
	snprintf(name, sizeof(name), ".spares/%d-1-%llu-debian@1/control.sock", (int)deaf.pid,
		 (unsigned long long)card.ram_bytes);
	assert_int_equal(unlinkat(cow->guests_fd, name, 0), 0);
	signal(SIGCHLD, SIG_IGN); /* as its keeper does: a corpse would count as living */
	assert_int_equal(take(cow, "web", &pid, &fd), -ENOENT);
	assert_true(cs_missing_at(cow->guests_fd, "web"));
	other = offer(cow, "1");
	assert_int_equal(take(cow, "web", &pid, &fd), 0);
	assert_int_equal(pid, other.pid);
	hear(fd, "Rweb true");
	signal(SIGCHLD, SIG_DFL);
	close(deaf.fd);
	end(&other);
}

/* Without its keeper it ends; what is left is swept. */
static void test_keeper_gone(void **state)
{
	struct cow *cow = *state;
	struct waiter waiter = offer(cow, "1");
	int status;

	close(waiter.fd);
	assert_int_equal(waitpid(waiter.pid, &status, 0), waiter.pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 4);
	assert_int_equal(cs_overlay_sweep(cow->store, NULL), 0);
	assert_int_equal(count(cow), 0);
}

/* What comes is no card: it ends, rather than to be somebody that nobody knows. */
static void test_nonsense(void **state)
{
	static const char *const nonsense[] = { "", "web", "web\n", "web\n{}", "\n\n\n" };
	struct cow *cow = *state;

	for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		struct sockaddr_un address = { .sun_family = AF_UNIX };
		struct waiter waiter = keep(cow);
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), status;

		/* NOLINTNEXTLINE */
		snprintf(address.sun_path, sizeof(address.sun_path),
			 "/proc/self/fd/%d/.spares/%d/control.sock", cow->guests_fd,
			 (int)waiter.pid);
		assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
		assert_int_equal(cs_write_full(fd, nonsense[i], strlen(nonsense[i])), 0);
		close(fd);
		assert_int_equal(waitpid(waiter.pid, &status, 0), waiter.pid);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 4);
		close(waiter.fd);
	}
	assert_int_equal(cs_overlay_sweep(cow->store, NULL), 0);
	assert_int_equal(scratch_count(cow->guests_fd, ".spares"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		COW_TEST(test_taken),      COW_TEST(test_of_its_kind_only),
		COW_TEST(test_name_taken), COW_TEST(test_dead),
		COW_TEST(test_deaf),       COW_TEST(test_keeper_gone),
		COW_TEST(test_nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

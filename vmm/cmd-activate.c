/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* activate: listens on the sockets of parked guests, and wakes whom somebody connects to.
 *
 * One process listens for all. Each connection gets a process of its own, which has the guest woken
 * and carries bytes to and fro; the guest's monitor makes its own socket in place of ours. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cow/life.h"
#include "cow/overlay.h"
#include "store/base/own.h"
#include "vmm/client-private.h"
#include "vmm/cmd-spawner.h"
#include "vmm/command.h"

#define BACKLOG 128
/* Behind a sign that something was parked: its monitor has ended by then. And without any sign, for
 * those that were missed. */
#define SETTLE_MS 300
#define ENDING_MS 30000 /* as long as a monitor that is parked may take to end */
#define LOOK_MS   60000
#define NAP_NS    100000000
#define DIAL_MS   5000
#define CARRY     65536

struct sleeper {
	char guest[64];
	int fd; /* listens */
	struct stat st;
	bool seen; /* still parked, as of the last look */
};

struct activator {
	const struct cs_globals *globals;
	struct cs_store *store;
	int signal_fd, notify_fd;
	struct sleeper *sleeper;
	size_t n;
	struct cs_err *err;
};

static void activator_close(struct activator *a)
{
	for (size_t i = 0; i < a->n; i++)
		cs_fd_closep(&a->sleeper[i].fd);
	free(a->sleeper);
	cs_fd_closep(&a->signal_fd);
	cs_fd_closep(&a->notify_fd);
	cs_store_freep(&a->store);
}

/* ---- one connection, in a process of its own ------------------------------------------------ */

/* What comes from (from) goes to (to), up to its end. */
static void carry(int from, int to)
{
	const struct cs_patience patient = { UINT64_MAX, -1 };
	cs_auto(cs_mem_freep) char *buf = malloc(CARRY);

	while (buf && cs_client_wait(from, POLLIN, &patient) == 0) {
		ssize_t n = recv(from, buf, CARRY, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0 || cs_client_send(to, buf, (size_t)n, &patient) < 0)
			break;
	}
	shutdown(to, SHUT_WR);
}

/* A process for each way: whoever does not read must not hold up the other. */
static void carry_both(int a, int b)
{
	const pid_t pid = fork();

	if (pid == 0) {
		carry(b, a);
		_exit(EXIT_SUCCESS);
	}
	if (pid > 0)
		carry(a, b);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static int serve(struct activator *a, const char *guest, int client_fd, struct cs_err *err)
{
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest awake = { .dirfd = -1 };
	cs_auto(cs_fd_closep) int fd = -1;
	const struct cs_patience patience = { cs_client_now_ms() + DIAL_MS, -1 };
	int r;

	r = cs_cmd_guest_awake(a->store, guest, &awake, err);
	if (r == 0)
		r = cs_client_dial(awake.dirfd, CS_VSOCK_SOCKET, &patience, &fd, err);
	if (r < 0)
		return cs_fail_in(err, r, "guest '%s': cannot wake it", guest);
	carry_both(client_fd, fd);
	return 0;
}

static _Noreturn void child_main(struct activator *a, const char *guest, int client_fd)
{
	struct cs_err err = { 0 };
	sigset_t none;
	int r;

	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (size_t i = 0; i < a->n; i++)
		cs_fd_closep(&a->sleeper[i].fd);
	r = serve(a, guest, client_fd, &err);
	if (r < 0)
		cs_cmd_complain(&err);
	_exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* All that wait there; then it is no longer ours to listen: the guest will. */
static void wake(struct activator *a, struct sleeper *sleeper)
{
	for (;;) {
		const int fd = cs_spawner_raise_fd(
			accept4(sleeper->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
		const pid_t pid = fd < 0 ? -1 : fork();

		if (fd >= 0 && pid == 0)
			child_main(a, sleeper->guest, fd);
		if (fd >= 0)
			close(fd);
		if (pid >= 0)
			continue;
		/* Out of descriptors or processes: who waits would wake us again at once. */
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
			fprintf(stderr, "clearstore: guest '%s': cannot wake it: %s\n",
				sleeper->guest, strerror(errno));
			nanosleep(&(struct timespec){ .tv_nsec = NAP_NS }, NULL);
		}
		return;
	}
}

/* ---- who sleeps ----------------------------------------------------------------------------- */

static int listen_for(struct activator *a, const char *guest, struct sleeper *ret)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	cs_auto(cs_fd_closep) int dirfd = -1;
	cs_auto(cs_fd_closep) int fd = -1;
	mode_t mask;
	int r;

	/* Who starts or removes it waits for us: if it is parked now, the socket is nobody's. */
	r = cs_guest_lock(a->store, guest, false, &dirfd, a->err);
	if (r == 0)
		r = cs_card_load(a->store, guest, &card, a->err);
	if (r < 0 || card->state != CS_GUEST_PARKED)
		return r < 0 ? r : -ESRCH;
	unlinkat(dirfd, CS_VSOCK_SOCKET, 0);
	fd = cs_spawner_raise_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", dirfd,
		 CS_VSOCK_SOCKET);
	mask = umask(0177);
	r = fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	umask(mask);
	if (r == 0 && (listen(fd, BACKLOG) < 0 ||
		       fstatat(dirfd, CS_VSOCK_SOCKET, &ret->st, AT_SYMLINK_NOFOLLOW) < 0))
		r = -errno;
	if (r < 0)
		return cs_fail_errno(a->err, r, "guest '%s': cannot listen for it", guest);
	snprintf(ret->guest, sizeof(ret->guest), "%s", guest);
	ret->fd = cs_steal_fd(&fd);
	ret->seen = true;
	return 0;
}

/* The socket in the guest's folder still is ours. */
static bool is_ours(const struct activator *a, const struct sleeper *sleeper)
{
	char path[sizeof(sleeper->guest) + sizeof(CS_VSOCK_SOCKET) + 1];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", sleeper->guest, CS_VSOCK_SOCKET);
	return fstatat(cs_store_guests_fd(a->store), path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       st.st_dev == sleeper->st.st_dev && st.st_ino == sleeper->st.st_ino;
}

static int look_at(const struct cs_card *card, void *arg)
{
	struct activator *a = arg;
	struct sleeper *more;

	if (card->state != CS_GUEST_PARKED)
		return 0;
	for (size_t i = 0; i < a->n; i++) {
		if (strcmp(a->sleeper[i].guest, card->guest) == 0) {
			a->sleeper[i].seen = is_ours(a, &a->sleeper[i]);
			if (a->sleeper[i].seen)
				return 0;
		}
	}
	more = reallocarray(a->sleeper, a->n + 1, sizeof(*more));
	if (!more)
		return cs_fail_errno(a->err, ENOMEM, "guest '%s'", card->guest);
	a->sleeper = more;
	/* One that cannot be listened for now may be another time. */
	if (listen_for(a, card->guest, &a->sleeper[a->n]) == 0)
		a->n++;
	return 0;
}

/* Listen for all that are parked, and for nobody else. */
static int look(struct activator *a)
{
	size_t kept = 0;
	int r;

	for (size_t i = 0; i < a->n; i++)
		a->sleeper[i].seen = false;
	/* What dead monitors left would be swept by the next command, our sockets with it. */
	cs_overlay_sweep(a->store, NULL);
	r = cs_card_each(a->store, look_at, a, a->err);
	for (size_t i = 0; i < a->n; i++) {
		if (a->sleeper[i].seen)
			a->sleeper[kept++] = a->sleeper[i];
		else
			cs_fd_closep(&a->sleeper[i].fd);
	}
	a->n = kept;
	return r;
}

/* ---- the loop ------------------------------------------------------------------------------- */

/* 1: it is to end. */
static int wait_once(struct activator *a, int timeout_ms, bool *ret_noticed)
{
	cs_auto(cs_mem_freep) struct pollfd *item = calloc(a->n + 2, sizeof(*item));
	char events[4096];

	if (!item)
		return cs_fail_errno(a->err, ENOMEM, "%zu guests", a->n);
	item[0] = (struct pollfd){ .fd = a->signal_fd, .events = POLLIN };
	item[1] = (struct pollfd){ .fd = a->notify_fd, .events = POLLIN };
	for (size_t i = 0; i < a->n; i++)
		item[2 + i] = (struct pollfd){ .fd = a->sleeper[i].fd, .events = POLLIN };
	if (poll(item, a->n + 2, timeout_ms) < 0 && errno != EINTR)
		return cs_fail_errno(a->err, errno, "cannot wait for connections");
	*ret_noticed = item[1].revents && read(a->notify_fd, events, sizeof(events)) > 0;
	for (size_t i = 0; i < a->n; i++) {
		if (item[2 + i].revents)
			wake(a, &a->sleeper[i]);
	}
	return item[0].revents ? 1 : 0;
}

static int serve_all(struct activator *a)
{
	uint64_t next = 0, until = 0; /* (until): monitors may still be ending */
	bool noticed;
	int r = 0;

	while (r == 0) {
		const uint64_t now = cs_cmd_now_ms();

		if (now >= next) {
			r = look(a);
			next = cs_cmd_now_ms() + (now < until ? SETTLE_MS : LOOK_MS);
			continue;
		}
		r = wait_once(a, (int)(next - now), &noticed);
		if (noticed)
			until = cs_cmd_now_ms() + ENDING_MS;
		if (noticed && next > cs_cmd_now_ms() + SETTLE_MS)
			next = cs_cmd_now_ms() + SETTLE_MS;
	}
	return r < 0 ? r : 0;
}

static int open_activator(struct activator *a, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int marks_fd = -1;
	char path[64];
	int r;

	r = cs_cmd_store_open(a->globals, &a->store, err);
	if (r == 0)
		r = cs_marks_open(a->store, &marks_fd, err);
	if (r < 0)
		return r;
	a->signal_fd = cs_spawner_signals();
	a->notify_fd = cs_spawner_raise_fd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", marks_fd);
	if (a->signal_fd < 0 || a->notify_fd < 0 ||
	    inotify_add_watch(a->notify_fd, path, IN_MOVED_FROM | IN_DELETE) < 0)
		return cs_fail_errno(err, errno, "cannot watch guests");
	return 0;
}

static int run(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	cs_auto(activator_close) struct activator a = {
		.globals = globals, .signal_fd = -1, .notify_fd = -1, .err = err
	};
	int r;

	cs_spawner_prepare();
	r = open_activator(&a, err);
	return r < 0 ? r : serve_all(&a);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	return ARGP_ERR_UNKNOWN;
}

static const struct argp argp = {
	.parser = parse,
	.doc = "Wake parked guests when somebody connects to their vsock.sock, and carry that "
	       "connection. Goes on until it is told to end.",
};

const struct cs_command cs_cmd_activate = {
	.name = "activate",
	.summary = "Wake parked guests by connections to them",
	.argp = &argp,
	.run = run,
};

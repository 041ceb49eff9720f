/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/spare.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "cow/card-private.h"
#include "cow/life.h"
#include "cow/overlay-private.h"
#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define SPARES    ".spares"
#define NAME_ROOM 160
#define PID_MAX   (1u << 22)
/* A taker that has connected sends its card at once. */
#define CARD_MS    5000
#define CARD_BYTES (CS_NAME_MAX + 1 + (size_t)CS_CARD_BYTES_MAX)

/* ---- names --------------------------------------------------------------------------------- */

/* *ret is the caller's. -ENOENT, without words, when there is none and none is to be made. */
static int open_spares(struct cs_store *store, bool make, int *ret, struct cs_err *err)
{
	const int guests_fd = cs_store_guests_fd(store);
	int fd;

	if (make && mkdirat(guests_fd, SPARES, 0711) < 0 && errno != EEXIST)
		return cs_fail_errno(err, errno, "cannot make 'guests/" SPARES "'");
	fd = openat(guests_fd, SPARES, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return -ENOENT;
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot open 'guests/" SPARES "'");
	*ret = fd;
	return 0;
}

static void half_name(pid_t pid, char ret[NAME_ROOM])
{
	snprintf(ret, NAME_ROOM, "%d", (int)pid);
}

/* What stands behind the pid. */
static void kind_of(const struct cs_card *card, char ret[NAME_ROOM])
{
	snprintf(ret, NAME_ROOM, "-%u-%" PRIu64 "-%s@%s", card->vcpus, card->ram_bytes,
		 card->template, card->version);
}

static void offer_name(pid_t pid, const struct cs_card *card, char ret[NAME_ROOM])
{
	char kind[NAME_ROOM];

	kind_of(card, kind);
	snprintf(ret, NAME_ROOM, "%d%.*s", (int)pid, NAME_ROOM - 12, kind);
}

/* The pid of an offer of that (kind); 0: it is another, or none. */
static pid_t offer_pid(const char *name, const char *kind)
{
	const char *rest = strchr(name, '-');
	char number[12] = "";
	uint64_t pid;

	if (!rest || (size_t)(rest - name) >= sizeof(number) || strcmp(rest, kind) != 0)
		return 0;
	memcpy(number, name, (size_t)(rest - name));
	return cs_parse_u64(number, PID_MAX, &pid) == 0 ? (pid_t)pid : 0;
}

/* ---- making, offering ---------------------------------------------------------------------- */

int cs_spare_make(struct cs_store *store, int *ret_dirfd, int *ret_lock_fd, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int spares_fd = -1;
	cs_auto(cs_fd_closep) int lock_fd = -1;
	char name[NAME_ROOM];
	int r;

	half_name(getpid(), name);
	r = open_spares(store, true, &spares_fd, err);
	if (r == 0)
		r = cs_folder_make(spares_fd, name, &lock_fd, err);
	if (r < 0)
		return r;
	/* Opened anew: a copy would share the lock. */
	r = openat(lock_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r < 0)
		return cs_fail_errno(err, errno, "cannot open its folder");
	*ret_dirfd = r;
	*ret_lock_fd = cs_steal_fd(&lock_fd);
	return 0;
}

int cs_spare_offer(struct cs_store *store, pid_t pid, const struct cs_card *card,
		   struct cs_err *err)
{
	cs_auto(cs_fd_closep) int spares_fd = -1;
	char half[NAME_ROOM], name[NAME_ROOM];
	int r;

	r = open_spares(store, true, &spares_fd, err);
	if (r < 0)
		return r;
	half_name(pid, half);
	offer_name(pid, card, name);
	if (renameat(spares_fd, half, spares_fd, name) < 0)
		return cs_fail_errno(err, errno, "cannot offer 'guests/" SPARES "/%s'", half);
	return 0;
}

bool cs_spare_is_offered(struct cs_store *store, pid_t pid, const struct cs_card *card)
{
	cs_auto(cs_fd_closep) int spares_fd = -1;
	char name[NAME_ROOM];

	offer_name(pid, card, name);
	return open_spares(store, false, &spares_fd, NULL) == 0 && !cs_missing_at(spares_fd, name);
}

/* ---- taking -------------------------------------------------------------------------------- */

/* Visit the offers for guests like (card) until fn returns something else than 0, which is
 * returned. */
static int each_offer(int spares_fd, const struct cs_card *card,
		      int (*fn)(const char *name, pid_t pid, void *arg), void *arg)
{
	struct dirent **entry;
	const int n = scandirat(spares_fd, ".", &entry, NULL, NULL);
	char kind[NAME_ROOM];
	int r = 0;

	kind_of(card, kind);
	for (int i = 0; i < n; i++) {
		const pid_t pid = offer_pid(entry[i]->d_name, kind);

		if (pid && r == 0)
			r = fn(entry[i]->d_name, pid, arg);
		free(entry[i]);
	}
	if (n >= 0)
		free(entry);
	return r;
}

static int count_one(const char *name, pid_t pid, void *arg)
{
	++*(size_t *)arg;
	return 0;
}

size_t cs_spare_count(struct cs_store *store, const struct cs_card *card)
{
	cs_auto(cs_fd_closep) int spares_fd = -1;
	size_t n = 0;

	if (open_spares(store, false, &spares_fd, NULL) == 0)
		each_offer(spares_fd, card, count_one, &n);
	return n;
}

struct taking {
	struct cs_store *store;
	int spares_fd, marks_fd;
	struct cs_card card; /* borrows its strings */
	int fd;
	struct cs_err *err;
};

/* Make the folder of the spare (name) the guest's. -ENOENT: somebody else has it, or the guest's
 * name is being used just now. *ret is the caller's. */
static int adopt(struct taking *taking, const char *name, int *ret)
{
	const struct cs_card *card = &taking->card;
	cs_auto(cs_fd_closep) int dirfd = -1;
	char half[CS_MARK_ROOM];
	int r;

	snprintf(half, sizeof(half), CS_MARK_NEW "%s", card->guest);
	if (renameat(taking->spares_fd, name, taking->marks_fd, half) < 0)
		return -ENOENT;
	dirfd = openat(taking->marks_fd, half, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = dirfd < 0 ? cs_fail_errno(taking->err, errno, "cannot open its folder")
		      : cs_card_save_at(dirfd, card, taking->err);
	if (r == 0)
		r = cs_overlay_publish(taking->store, taking->marks_fd, half, card, taking->err);
	if (r < 0) {
		cs_mark_drop(taking->marks_fd, card);
		renameat(taking->marks_fd, half, taking->spares_fd, name);
		return r;
	}
	*ret = cs_steal_fd(&dirfd);
	return 0;
}

static int dial(int dirfd, int *ret)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cs_auto(cs_fd_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" CS_CONTROL_SOCKET,
		 dirfd);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	*ret = cs_steal_fd(&fd);
	return 0;
}

/* Name and card; the end of what we send says that this was all. */
static int send_card(int fd, const struct cs_card *card, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char name[sizeof(card->guest) + 1];
	size_t bytes;
	int r;

	r = cs_card_encode(card, &text, &bytes, err);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "%s\n", card->guest);
	if (send(fd, name, strlen(name), MSG_NOSIGNAL | MSG_MORE) != (ssize_t)strlen(name))
		return -EPIPE;
	for (size_t sent = 0; sent < bytes;) {
		const ssize_t n = send(fd, text + sent, bytes - sent, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return -errno;
		sent += n > 0 ? (size_t)n : 0;
	}
	return shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

/* One that does not listen any more is dead, or as good as: then the guest that it was to be does
 * not run, and can be taken out again. */
static void give_up(struct taking *taking)
{
	const struct cs_card *card = &taking->card;

	if (cs_process_alive(card->pid, card->pid_start_ticks))
		cs_life_kill(card, NULL);
	cs_overlay_delete(taking->store, taking->marks_fd, card->guest, card, NULL);
}

/* 1: taken. 0: try the next. */
static int take_one(const char *name, pid_t pid, void *arg)
{
	struct taking *taking = arg;
	cs_auto(cs_fd_closep) int dirfd = -1;
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	/* Locked by a living one, or (pid) may be somebody else by now. */
	r = cs_folder_lock(taking->spares_fd, name, false, &fd);
	if (r != -EBUSY)
		return 0;
	taking->card.pid = pid;
	if (cs_process_start(pid, &taking->card.pid_start_ticks) < 0)
		return 0;
	r = adopt(taking, name, &dirfd);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	r = dial(dirfd, &fd);
	if (r == 0)
		r = send_card(fd, &taking->card, taking->err);
	if (r < 0) {
		give_up(taking);
		return r == -E2BIG || r == -EINVAL || r == -ENOMEM ? r : 0;
	}
	taking->fd = cs_steal_fd(&fd);
	return 1;
}

int cs_spare_take(struct cs_store *store, const struct cs_template *t, const struct cs_card *card,
		  pid_t *ret_pid, int *ret_fd, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int spares_fd = -1;
	cs_auto(cs_fd_closep) int marks_fd = -1;
	struct taking taking = { .store = store, .card = *card, .fd = -1, .err = err };
	int r;

	r = open_spares(store, false, &spares_fd, err);
	if (r < 0)
		return r;
	r = cs_name_check("guest", card->guest, err);
	if (r == 0)
		r = cs_template_check_present(store, t, err);
	if (r == 0)
		r = cs_boot_id(taking.card.boot, err);
	if (r == 0)
		r = cs_marks_open(store, &marks_fd, err);
	if (r < 0)
		return r;
	taking.spares_fd = spares_fd;
	taking.marks_fd = marks_fd;
	taking.card.started = time(NULL);
	r = each_offer(spares_fd, card, take_one, &taking);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	*ret_pid = taking.card.pid;
	*ret_fd = taking.fd;
	return 0;
}

/* ---- in the spare -------------------------------------------------------------------------- */

/* All that comes, up to its end; (buf) has a byte more for a NUL. */
static int receive(int fd, char *buf, size_t room, size_t *ret_bytes)
{
	struct pollfd item = { .fd = fd, .events = POLLIN };
	size_t bytes = 0;

	for (;;) {
		ssize_t n = poll(&item, 1, CARD_MS);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ETIMEDOUT;
		n = recv(fd, buf + bytes, room - bytes, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		bytes += (size_t)n;
		if (bytes == room)
			return -E2BIG;
	}
	buf[bytes] = '\0';
	*ret_bytes = bytes;
	return 0;
}

static int receive_card(int fd, struct cs_card **ret, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *buf = malloc(CARD_BYTES + 1);
	size_t bytes = 0;
	char *text;
	int r;

	if (!buf)
		return cs_fail_errno(err, ENOMEM, "cannot take a card");
	r = receive(fd, buf, CARD_BYTES, &bytes);
	if (r < 0)
		return cs_fail_errno(err, r, "cannot take a card");
	text = strchr(buf, '\n');
	if (!text)
		return cs_fail(err, EBADMSG, "what came is no card");
	*text++ = '\0';
	return cs_card_decode(buf, text, bytes - (size_t)(text - buf), ret, err);
}

/* Is it root, or (uid), who has connected? */
static bool is_allowed(int fd, uid_t uid)
{
	struct ucred peer;
	socklen_t bytes = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
	       (peer.uid == 0 || peer.uid == uid);
}

int cs_spare_await(int listen_fd, int keeper_fd, uid_t uid, struct cs_card **ret, int *ret_fd,
		   struct cs_err *err)
{
	struct pollfd item[2] = { { .fd = listen_fd, .events = POLLIN }, { .fd = keeper_fd } };
	int r;

	for (;;) {
		cs_auto(cs_fd_closep) int fd = -1;

		if (poll(item, 2, -1) < 0 && errno != EINTR)
			return cs_fail_errno(err, errno, "cannot wait to be taken");
		/* Who came before the end is served. */
		if (item[0].revents)
			fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
		else if (item[1].revents)
			return cs_fail(err, ECANCELED, "nobody wants it any more");
		if (fd < 0 || !is_allowed(fd, uid))
			continue;
		r = receive_card(fd, ret, err);
		if (r < 0)
			return r;
		*ret_fd = cs_steal_fd(&fd);
		return 0;
	}
}

/* ---- sweeping ------------------------------------------------------------------------------ */

int cs_spare_sweep(struct cs_store *store, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int spares_fd = -1;
	struct dirent **entry;
	int n, r, first = 0;

	r = open_spares(store, false, &spares_fd, err);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	n = scandirat(spares_fd, ".", &entry, NULL, NULL);
	if (n < 0)
		return cs_fail_errno(err, errno, "cannot read 'guests/" SPARES "'");
	for (int i = 0; i < n; i++) {
		cs_auto(cs_fd_closep) int fd = -1;

		if (entry[i]->d_name[0] != '.') {
			/* A living one, or its maker, has it locked. */
			r = cs_folder_lock(spares_fd, entry[i]->d_name, false, &fd);
			if (r == 0)
				r = cs_folder_delete(spares_fd, entry[i]->d_name);
			if (r < 0 && r != -EBUSY && r != -ENOENT && !first)
				first = cs_fail_errno(err, r,
						      "cannot delete 'guests/" SPARES "/%s'",
						      entry[i]->d_name);
		}
		free(entry[i]);
	}
	free(entry);
	return first;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/park.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cow/card-private.h"
#include "cow/life.h"
#include "store/base/io.h"
#include "store/base/num.h"
#include "store/digest.h"

#define PARKED    "parked"
#define SEAL      "seal"
#define SEAL_MAX  256
#define STATE_MAX (UINT64_C(16) << 20) /* vmm/stream.h */

static const char *const file_names[CS_PARK_FILES] = { "memory", "state", "ticket" };

struct cs_park {
	struct cs_store *store;
	struct cs_card *card;
	int marks_fd, dirfd; /* .marks, and the folder in it, locked */
	int fd[CS_PARK_FILES];
	char half[CS_MARK_ROOM];
};

/* ---- making -------------------------------------------------------------------------------- */

struct cs_park *cs_park_free(struct cs_park *park)
{
	if (!park)
		return NULL;
	for (int i = 0; i < CS_PARK_FILES; i++)
		cs_fd_closep(&park->fd[i]);
	/* While it is locked nobody else takes it for a leftover; when it was published it is
	 * elsewhere. */
	if (park->dirfd >= 0)
		cs_remove_tree_at(park->marks_fd, park->half);
	cs_fd_closep(&park->dirfd);
	cs_fd_closep(&park->marks_fd);
	cs_card_free(park->card);
	free(park);
	return NULL;
}

static int open_folder(struct cs_park *park, struct cs_err *err)
{
	int r;

	if (mkdirat(park->marks_fd, park->half, 0700) < 0 && errno != EEXIST)
		return cs_fail_errno(err, errno, "cannot make a folder for what is parked");
	r = cs_folder_lock(park->marks_fd, park->half, false, &park->dirfd);
	if (r == -EBUSY || r == -ENOENT)
		return cs_fail(err, EBUSY, "it is being parked already");
	return r < 0 ? cs_fail_errno(err, r, "cannot lock a folder for what is parked") : 0;
}

static int open_files(struct cs_park *park, struct cs_err *err)
{
	for (int i = 0; i < CS_PARK_FILES; i++) {
		park->fd[i] = openat(park->dirfd, file_names[i],
				     O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (park->fd[i] < 0)
			return cs_fail_errno(err, errno, "cannot make '%s'", file_names[i]);
	}
	if (cs_pwrite_full(park->fd[CS_PARK_TICKET], "1\n", 2, 0) < 0)
		return cs_fail_errno(err, errno, "cannot write its ticket");
	return 0;
}

int cs_park_create(struct cs_store *store, const struct cs_card *card, struct cs_park **ret,
		   struct cs_err *err)
{
	cs_auto(cs_park_freep) struct cs_park *park = calloc(1, sizeof(*park));
	int r;

	if (!park)
		return cs_fail_errno(err, ENOMEM, "guest '%s'", card->guest);
	park->store = store;
	park->marks_fd = park->dirfd = -1;
	for (int i = 0; i < CS_PARK_FILES; i++)
		park->fd[i] = -1;
	snprintf(park->half, sizeof(park->half), CS_MARK_PARK "%s", card->guest);
	park->card = cs_card_copy(card);
	if (!park->card)
		return cs_fail_errno(err, ENOMEM, "guest '%s'", card->guest);
	r = cs_marks_open(store, &park->marks_fd, err);
	if (r == 0)
		r = open_folder(park, err);
	if (r == 0)
		r = open_files(park, err);
	if (r < 0)
		return cs_fail_in(err, r, "guest '%s'", card->guest);
	*ret = cs_steal(park);
	return 0;
}

const int *cs_park_fds(const struct cs_park *park)
{
	return park->fd;
}

static int write_seal(const struct cs_park *park, bool from_memory, struct cs_err *err)
{
	const int fd = park->fd[CS_PARK_STATE];
	char digest[CS_DIGEST_TEXT], text[SEAL_MAX];
	struct stat st;
	int n, r;

	if (fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "state");
	r = cs_digest_file(fd, (uint64_t)st.st_size, NULL, digest, err);
	if (r < 0)
		return r;
	n = snprintf(text, sizeof(text), "1 %s %" PRIu64 " %s\n", from_memory ? "memory" : "zeroes",
		     (uint64_t)st.st_size, digest);
	return cs_publish_at(park->dirfd, SEAL, 0600, text, (size_t)n, err);
}

/* The card of a guest that does not persist was never synced: what is parked stays over a power
 * cut, and so must the card. */
static int sync_all(const struct cs_park *park, int guest_fd, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int card_fd = -1;
	int r = 0;

	for (int i = 0; i < CS_PARK_FILES && r == 0; i++)
		r = fsync(park->fd[i]) < 0 ? -errno : 0;
	if (r == 0)
		r = cs_sync_dir(park->dirfd);
	card_fd = openat(guest_fd, CS_CARD_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (r == 0 && (card_fd < 0 || fsync(card_fd) < 0))
		r = -errno;
	return r < 0 ? cs_fail_errno(err, r, "cannot write out what is parked") : 0;
}

/* Under the lock of the guest's folder, without which nobody starts or removes it. */
static int put_in_place(struct cs_park *park, int guest_fd, struct cs_err *err)
{
	cs_auto(cs_card_freep) struct cs_card *now = NULL;
	const int guests_fd = cs_store_guests_fd(park->store);
	int r;

	r = cs_card_load_at(guests_fd, guest_fd, park->card->guest, &now, err);
	if (r < 0)
		return r;
	if (now->state != CS_GUEST_RUNNING || now->pid != park->card->pid ||
	    now->pid_start_ticks != park->card->pid_start_ticks)
		return cs_fail(err, ESRCH, "it has ended meanwhile");
	r = sync_all(park, guest_fd, err);
	if (r < 0)
		return r;
	/* Of an attempt that was given up behind this point. */
	r = cs_remove_tree_at(guest_fd, PARKED);
	if (r < 0)
		return cs_fail_errno(err, r, "cannot delete what was parked before");
	if (renameat(park->marks_fd, park->half, guest_fd, PARKED) < 0)
		return cs_fail_errno(err, errno, "cannot put what is parked in place");
	cs_fd_closep(&park->dirfd);
	r = cs_sync_dir(guest_fd);
	if (r == 0)
		r = cs_sync_dir(guests_fd);
	return r < 0 ? cs_fail_errno(err, r, "cannot sync its folder") : 0;
}

int cs_park_publish(struct cs_park *park, bool from_memory, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int guest_fd = -1;
	int r;

	r = write_seal(park, from_memory, err);
	if (r == 0)
		r = cs_guest_lock(park->store, park->card->guest, true, &guest_fd, err);
	if (r == 0)
		r = put_in_place(park, guest_fd, err);
	if (r < 0)
		return cs_fail_in(err, r, "guest '%s'", park->card->guest);
	/* Written out, it need not stay in the page cache. */
	for (int i = 0; i < CS_PARK_FILES; i++)
		posix_fadvise(park->fd[i], 0, 0, POSIX_FADV_DONTNEED);
	return 0;
}

/* ---- what is parked ------------------------------------------------------------------------ */

bool cs_parked_there(int dirfd)
{
	struct stat st;

	return fstatat(dirfd, PARKED "/ticket", &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISREG(st.st_mode) && st.st_size > 0;
}

void cs_parked_closep(struct cs_parked *parked)
{
	cs_fd_closep(&parked->memory_fd);
	cs_fd_closep(&parked->state_fd);
}

static int broken(struct cs_err *err)
{
	return cs_fail(err, EBADMSG,
		       "what was parked is broken (clearstore stop forgets it; the guest then "
		       "starts anew)");
}

struct seal {
	bool from_memory;
	uint64_t bytes;
	char digest[CS_DIGEST_TEXT];
};

static int read_seal(int dirfd, struct seal *ret)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char *word[4], *at;
	int r;

	r = cs_read_file_at(dirfd, SEAL, SEAL_MAX, &text, NULL);
	if (r < 0)
		return r;
	at = text;
	for (int i = 0; i < 4; i++) {
		word[i] = strsep(&at, i < 3 ? " " : "\n");
		if (!word[i] || !at)
			return -EBADMSG;
	}
	if (*at || strcmp(word[0], "1") != 0 || strlen(word[3]) != CS_DIGEST_TEXT - 1 ||
	    (strcmp(word[1], "memory") != 0 && strcmp(word[1], "zeroes") != 0) ||
	    cs_parse_u64(word[2], STATE_MAX, &ret->bytes) < 0)
		return -EBADMSG;
	ret->from_memory = word[1][0] == 'm';
	memcpy(ret->digest, word[3], CS_DIGEST_TEXT);
	return 0;
}

static int open_parked(int dirfd, struct cs_parked *ret, struct seal *seal)
{
	cs_auto(cs_fd_closep) int parked_fd = -1;
	const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK;
	struct stat st;

	parked_fd = openat(dirfd, PARKED, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (parked_fd < 0 || read_seal(parked_fd, seal) < 0)
		return -EBADMSG;
	ret->memory_fd = openat(parked_fd, file_names[CS_PARK_MEMORY], flags | O_CLOEXEC);
	ret->state_fd = openat(parked_fd, file_names[CS_PARK_STATE], flags | O_CLOEXEC);
	ret->from_memory = seal->from_memory;
	if (ret->memory_fd < 0 || ret->state_fd < 0 || fstat(ret->state_fd, &st) < 0 ||
	    !S_ISREG(st.st_mode) || (uint64_t)st.st_size != seal->bytes)
		return -EBADMSG;
	return 0;
}

int cs_parked_open(int dirfd, struct cs_parked *ret, struct cs_err *err)
{
	cs_auto(cs_parked_closep) struct cs_parked parked = { .memory_fd = -1, .state_fd = -1 };
	struct seal seal;

	if (!cs_parked_there(dirfd))
		return -ENOENT;
	if (open_parked(dirfd, &parked, &seal) < 0)
		return broken(err);
	*ret = parked;
	parked.memory_fd = parked.state_fd = -1;
	return 0;
}

int cs_parked_check(struct cs_store *store, const char *guest, struct cs_err *err)
{
	cs_auto(cs_parked_closep) struct cs_parked parked = { .memory_fd = -1, .state_fd = -1 };
	cs_auto(cs_fd_closep) int dirfd = -1;
	char digest[CS_DIGEST_TEXT];
	struct seal seal;
	int r;

	r = cs_guest_open(store, guest, &dirfd, err);
	if (r < 0)
		return r;
	/* Whoever wakes it takes the ticket first. */
	if (open_parked(dirfd, &parked, &seal) < 0)
		r = cs_parked_there(dirfd) ? broken(err)
					   : cs_fail(err, EBUSY, "is being woken by another");
	if (r == 0)
		r = cs_digest_file(parked.state_fd, seal.bytes, NULL, digest, err);
	if (r == 0 && strcmp(digest, seal.digest) != 0)
		r = broken(err);
	return r < 0 ? cs_fail_in(err, r, "guest '%s'", guest) : 0;
}

int cs_parked_forget(int dirfd, bool sync, struct cs_err *err)
{
	int r;

	/* The ticket first: what is left of the rest is nothing then. */
	if (unlinkat(dirfd, PARKED "/ticket", 0) < 0 && errno != ENOENT)
		return cs_fail_errno(err, errno, "cannot forget its ticket");
	if (cs_missing_at(dirfd, PARKED))
		return 0;
	if (sync) {
		cs_auto(cs_fd_closep) int fd =
			openat(dirfd, PARKED, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

		r = fd < 0 ? -errno : cs_sync_dir(fd);
		if (r < 0)
			return cs_fail_errno(err, r, "cannot forget its ticket");
	}
	/* Without its ticket it is nothing: the next park, or the guest's end, takes it away. */
	cs_remove_tree_at(dirfd, PARKED);
	return 0;
}

int cs_parked_drop(struct cs_store *store, const char *guest, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int lock_fd = -1;
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	int r;

	r = cs_guest_lock(store, guest, true, &lock_fd, err);
	if (r == 0)
		r = cs_card_load_at(cs_store_guests_fd(store), lock_fd, guest, &card, err);
	if (r < 0)
		return r;
	if (card->state == CS_GUEST_RUNNING)
		return cs_fail(err, EBUSY, "guest '%s': was woken just now", guest);
	r = cs_parked_forget(lock_fd, true, err);
	return r < 0 ? cs_fail_in(err, r, "guest '%s'", guest) : 0;
}

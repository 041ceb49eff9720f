/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/card.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cow/card-private.h"
#include "cow/life.h"
#include "store/base/io.h"
#include "store/base/name.h"

/* ---- memory -------------------------------------------------------------------------------- */

static char **free_vector(char **vector)
{
	for (char **p = vector; p && *p; p++)
		free(*p);
	free(vector);
	return NULL;
}

struct cs_card *cs_card_free(struct cs_card *card)
{
	if (!card)
		return NULL;
	free_vector(card->command);
	free_vector(card->env);
	free(card->append);
	free(card);
	return NULL;
}

/* NULL: there is none, or no memory. */
static char **copy_vector(char *const *vector)
{
	size_t n = 0;
	char **copy;

	if (!vector)
		return NULL;
	while (vector[n])
		n++;
	copy = calloc(n + 1, sizeof(*copy));
	for (size_t i = 0; copy && i < n; i++) {
		copy[i] = strdup(vector[i]);
		if (!copy[i])
			return free_vector(copy);
	}
	return copy;
}

struct cs_card *cs_card_copy(const struct cs_card *card)
{
	cs_auto(cs_card_freep) struct cs_card *copy = malloc(sizeof(*copy));

	if (!copy)
		return NULL;
	*copy = *card;
	copy->command = copy_vector(card->command);
	copy->env = copy_vector(card->env);
	copy->append = card->append ? strdup(card->append) : NULL;
	if ((card->command && !copy->command) || (card->env && !copy->env) ||
	    (card->append && !copy->append))
		return NULL;
	return cs_steal(copy);
}

/* ---- the file ------------------------------------------------------------------------------ */

int cs_card_save_at(int dirfd, const struct cs_card *card, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	size_t bytes;
	int r;

	r = cs_card_encode(card, &text, &bytes, err);
	if (r < 0)
		return r;
	/* What does not persist is dead after a power cut: then its card need not be on the disk,
	 * and a spawn need not wait for it. */
	r = card->persist ? cs_publish_at(dirfd, CS_CARD_FILE, 0600, text, bytes, err)
			  : cs_replace_at(dirfd, CS_CARD_FILE, 0600, text, bytes, err);
	if (r < 0)
		return cs_fail_in(err, r, "guest '%s'", card->guest);
	return 0;
}

int cs_card_save(struct cs_store *store, const struct cs_card *card, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	int r;

	r = cs_guest_open(store, card->guest, &dirfd, err);
	if (r < 0)
		return r;
	return cs_card_save_at(dirfd, card, err);
}

/* Was the folder renamed or deleted while we looked into it? */
static bool is_gone(int guests_fd, int dirfd, const char *guest)
{
	struct stat ours, there;

	return fstat(dirfd, &ours) < 0 ||
	       fstatat(guests_fd, guest, &there, AT_SYMLINK_NOFOLLOW) < 0 ||
	       ours.st_dev != there.st_dev || ours.st_ino != there.st_ino;
}

int cs_card_load_at(int guests_fd, int dirfd, const char *guest, struct cs_card **ret,
		    struct cs_err *err)
{
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	cs_auto(cs_mem_freep) char *text = NULL;
	size_t bytes;
	int r;

	r = cs_read_file_at(dirfd, CS_CARD_FILE, CS_CARD_BYTES_MAX, &text, &bytes);
	if (r == -ENOENT && is_gone(guests_fd, dirfd, guest))
		return cs_fail(err, ENOENT, "guest '%s': was removed meanwhile", guest);
	if (r == -ENOMEM || r == -EACCES || r == -EIO)
		return cs_fail_errno(err, -r, "guest '%s': cannot read '%s'", guest, CS_CARD_FILE);
	if (r < 0)
		return cs_fail(err, EBADMSG, "guest '%s': %s: %s (clearstore remove %s)", guest,
			       CS_CARD_FILE, strerrordesc_np(-r), guest);
	r = cs_card_decode(guest, text, bytes, &card, err);
	if (r < 0)
		return r;
	cs_life_judge(dirfd, card);
	*ret = cs_steal(card);
	return 0;
}

int cs_card_load(struct cs_store *store, const char *guest, struct cs_card **ret,
		 struct cs_err *err)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	int r;

	r = cs_guest_open(store, guest, &dirfd, err);
	if (r < 0)
		return r;
	return cs_card_load_at(cs_store_guests_fd(store), dirfd, guest, ret, err);
}

/* ---- starting ------------------------------------------------------------------------------ */

/* Publish (card), which was (was) until now, as the one of a guest that is started. */
static int enter(struct cs_store *store, int dirfd, const struct cs_card *was,
		 const struct cs_card *card, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int marks_fd = -1;
	int r;

	r = cs_marks_open(store, &marks_fd, err);
	if (r < 0)
		return r;
	/* The mark first: without it nobody would look after this guest again. */
	r = cs_mark_put(marks_fd, card, err);
	if (r < 0)
		return r;
	r = cs_card_save_at(dirfd, card, err);
	if (r < 0) {
		cs_mark_drop(marks_fd, card);
		return r;
	}
	/* Last, so that a full disk leaves the last run's word. The monitor makes its own later. */
	cs_life_drop_exit(dirfd);
	cs_guest_drop_sockets(dirfd);
	if (was->pid != card->pid)
		cs_mark_drop(marks_fd, was);
	return 0;
}

int cs_card_start(struct cs_store *store, struct cs_card *card, pid_t pid, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int lock_fd = -1;
	cs_auto(cs_card_freep) struct cs_card *was = NULL;
	struct cs_card now;
	int r;

	r = cs_guest_lock(store, card->guest, true, &lock_fd, err);
	if (r < 0)
		return r;
	r = cs_card_load_at(cs_store_guests_fd(store), lock_fd, card->guest, &was, err);
	if (r < 0)
		return r;
	if (was->state == CS_GUEST_RUNNING)
		return cs_fail(err, EBUSY, "guest '%s': runs already (process %d)", card->guest,
			       (int)was->pid);
	now = *was; /* borrows its strings */
	r = cs_process_start(pid, &now.pid_start_ticks);
	if (r < 0)
		return cs_fail_errno(err, -r, "guest '%s': process %d", card->guest, (int)pid);
	r = cs_boot_id(now.boot, err);
	if (r < 0)
		return r;
	now.pid = pid;
	now.started = time(NULL);
	r = enter(store, lock_fd, was, &now, err);
	if (r < 0)
		return r;
	memcpy(card->boot, now.boot, sizeof(card->boot));
	card->pid = now.pid;
	card->pid_start_ticks = now.pid_start_ticks;
	card->created = now.created;
	card->started = now.started;
	card->disk_bytes = now.disk_bytes;
	card->state = CS_GUEST_RUNNING;
	card->exit_status = -1;
	card->stop_reason[0] = '\0';
	return 0;
}

/* ---- all of them --------------------------------------------------------------------------- */

static int is_guest(const struct dirent *entry)
{
	return (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN) &&
	       cs_name_check("guest", entry->d_name, NULL) == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	int order = strverscmp((*a)->d_name, (*b)->d_name);

	return order ? order : strcmp((*a)->d_name, (*b)->d_name);
}

struct listing {
	struct dirent **entry;
	int n;
};

static void listing_closep(struct listing *listing)
{
	for (int i = 0; i < listing->n; i++)
		free(listing->entry[i]);
	free(listing->entry);
}

/* What stands for a guest whose card cannot be read. */
static struct cs_card *broken_card(const char *guest)
{
	struct cs_card *card = calloc(1, sizeof(*card));

	if (!card)
		return NULL;
	card->state = CS_GUEST_BROKEN;
	card->exit_status = -1;
	memcpy(card->guest, guest, strlen(guest) + 1);
	memcpy(card->stop_reason, "broken", sizeof("broken"));
	return card;
}

struct visitor {
	cs_card_fn fn;
	void *arg;
};

static int visit(struct cs_store *store, const char *guest, const struct visitor *visitor,
		 struct cs_err *err)
{
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	int r;

	r = cs_card_load(store, guest, &card, err);
	if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP)
		return 0; /* removed meanwhile, or never one */
	if (r == -EBADMSG || r == -EPROTO) {
		card = broken_card(guest);
		if (!card)
			return cs_fail_errno(err, ENOMEM, "guest '%s'", guest);
	} else if (r < 0) {
		return r;
	}
	return visitor->fn(card, visitor->arg);
}

int cs_card_each(struct cs_store *store, cs_card_fn fn, void *arg, struct cs_err *err)
{
	cs_auto(listing_closep) struct listing listing = { .n = 0 };
	const struct visitor visitor = { fn, arg };
	int n, r;

	n = scandirat(cs_store_guests_fd(store), ".", &listing.entry, is_guest, by_name);
	if (n < 0)
		return cs_fail_errno(err, errno, "cannot read 'guests'");
	listing.n = n;
	for (int i = 0; i < n; i++) {
		r = visit(store, listing.entry[i]->d_name, &visitor, err);
		if (r != 0)
			return r;
	}
	return 0;
}

struct search {
	const char *name, *version;
	char *guest;
};

static int is_user(const struct cs_card *card, void *arg)
{
	struct search *search = arg;

	if (strcmp(card->template, search->name) != 0 ||
	    (search->version && strcmp(card->version, search->version) != 0))
		return 0;
	memcpy(search->guest, card->guest, sizeof(card->guest));
	return 1;
}

int cs_card_find_user(void *store, const char *name, const char *version, char guest[64],
		      struct cs_err *err)
{
	struct search search = { .name = name, .version = version, .guest = guest };

	return cs_card_each(store, is_user, &search, err);
}

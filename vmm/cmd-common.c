/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/cmd-common.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "cow/overlay.h"
#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/text.h"

#define LINE_MAX_BYTES 4096

int cs_cmd_complain(const struct cs_err *err)
{
	struct cs_err words = *err;

	fprintf(stderr, "clearstore: %s\n", cs_text_clean(words.text, false));
	return EXIT_FAILURE;
}

int cs_cmd_store_open(const struct cs_globals *globals, struct cs_store **ret, struct cs_err *err)
{
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	struct cs_err swept = { 0 };
	int r;

	r = cs_store_open(globals->store, &store, err);
	if (r < 0)
		return r;
	/* What cannot be swept is a nuisance, no reason to refuse: stop and remove must work. */
	if (cs_overlay_sweep(store, &swept) < 0)
		cs_cmd_complain(&swept);
	*ret = cs_steal(store);
	return 0;
}

int cs_cmd_print(const struct cs_globals *globals, const struct cs_report *report,
		 enum cs_format format, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	int r;

	if (globals->json && format == CS_FORMAT_TABLE)
		format = CS_FORMAT_JSON;
	if (globals->json && format == CS_FORMAT_RECORD)
		format = CS_FORMAT_JSON_RECORD;
	r = cs_report_format(report, format, &text, err);
	if (r < 0)
		return r;
	fputs(text, stdout);
	return 0;
}

/* ---- words --------------------------------------------------------------------------------- */

bool cs_words_add(struct cs_words *words, char *word)
{
	char **larger = reallocarray(words->v, words->n + 2, sizeof(*larger));

	if (!larger)
		return false;
	words->v = larger;
	words->v[words->n++] = word;
	words->v[words->n] = NULL;
	return true;
}

void cs_words_freep(struct cs_words *words)
{
	free(words->v);
	*words = (struct cs_words){ 0 };
}

char **cs_argp_rest(struct argp_state *state)
{
	char **rest = &state->argv[state->next - 1];

	state->next = state->argc;
	return rest;
}

int cs_cmd_number(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *ret,
		  struct cs_err *err)
{
	uint64_t value;

	if (cs_parse_u64(text, max, &value) < 0 || value < min)
		return cs_fail(err, EINVAL, "%s '%.40s': not a number from %" PRIu64 " to %" PRIu64,
			       what, text, min, max);
	*ret = value;
	return 0;
}

int cs_cmd_env_check(const struct cs_words *env, struct cs_err *err)
{
	for (size_t i = 0; i < env->n; i++) {
		const char *equals = strchr(env->v[i], '=');

		if (!equals || equals == env->v[i])
			return cs_fail(err, EINVAL, "env '%.60s': not NAME=VALUE", env->v[i]);
	}
	return 0;
}

/* ---- guests -------------------------------------------------------------------------------- */

void cs_cmd_guest_closep(struct cs_cmd_guest *guest)
{
	guest->card = cs_card_free(guest->card);
	cs_fd_closep(&guest->dirfd);
}

int cs_cmd_guest_open(struct cs_store *store, const char *name, struct cs_cmd_guest *ret,
		      struct cs_err *err)
{
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	cs_auto(cs_fd_closep) int dirfd = -1;
	int r;

	r = cs_card_load(store, name, &card, err); /* checks the name */
	if (r < 0)
		return r;
	dirfd = openat(cs_store_guests_fd(store), name,
		       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dirfd < 0)
		return cs_fail_errno(err, errno, "guest '%s': cannot open its folder", name);
	*ret = (struct cs_cmd_guest){ .card = cs_steal(card), .dirfd = cs_steal_fd(&dirfd) };
	return 0;
}

int cs_cmd_guest_running(struct cs_store *store, const char *name, struct cs_cmd_guest *ret,
			 struct cs_err *err)
{
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
	int r;

	r = cs_cmd_guest_open(store, name, &guest, err);
	if (r < 0)
		return r;
	if (guest.card->state != CS_GUEST_RUNNING)
		return cs_fail(err, ESRCH, "guest '%s': not running (try clearstore start %s)",
			       name, name);
	*ret = guest;
	guest = (struct cs_cmd_guest){ .dirfd = -1 };
	return 0;
}

char *cs_cmd_last_line(struct cs_store *store, const char *guest, const char *file)
{
	cs_auto(cs_fd_closep) int fd = -1;
	char path[CS_NAME_MAX + 32], text[LINE_MAX_BYTES + 1], *line;
	struct stat st;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/%s", guest, file);
	fd = openat(cs_store_guests_fd(store), path,
		    O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return NULL;
	n = pread(fd, text, LINE_MAX_BYTES,
		  st.st_size > LINE_MAX_BYTES ? st.st_size - LINE_MAX_BYTES : 0);
	while (n > 0 && strchr("\r\n", text[n - 1]))
		n--;
	if (n <= 0)
		return NULL;
	text[n] = '\0';
	line = memrchr(text, '\n', (size_t)n);
	return strdup(cs_text_clean(line ? line + 1 : text, false));
}

int cs_cmd_guest_pidfd(const struct cs_card *card)
{
	cs_auto(cs_fd_closep) int pidfd = -1;
	uint64_t ticks;

	if (card->pid <= 0)
		return -ESRCH;
	pidfd = pidfd_open(card->pid, 0);
	if (pidfd < 0)
		return -errno;
	/* Asked behind the open: if the start time fits, the descriptor is the monitor's. */
	if (cs_process_start(card->pid, &ticks) < 0 || ticks != card->pid_start_ticks)
		return -ESRCH;
	return cs_steal_fd(&pidfd);
}

size_t cs_cmd_wait_ended(int pidfds[], size_t n, uint64_t ms)
{
	cs_auto(cs_mem_freep) struct pollfd *polled = calloc(n ? n : 1, sizeof(*polled));
	uint64_t now = cs_cmd_now_ms(), end = ms > UINT64_MAX - now ? UINT64_MAX : now + ms;
	size_t left = n;

	while (polled && left) {
		uint64_t wait = end - now < 60000 ? end - now : 60000;

		left = 0;
		for (size_t i = 0; i < n; i++) {
			polled[i] = (struct pollfd){ .fd = pidfds[i], .events = POLLIN };
			left += pidfds[i] >= 0;
		}
		if (!left || poll(polled, n, (int)wait) < 0)
			break;
		for (size_t i = 0; i < n; i++) {
			if (pidfds[i] < 0 || !polled[i].revents)
				continue;
			cs_fd_closep(&pidfds[i]);
			left--;
		}
		now = cs_cmd_now_ms();
		if (now >= end)
			break;
	}
	return left;
}

int cs_cmd_status_number(const char *status, const char *key, uint64_t *ret)
{
	const size_t length = strlen(key);
	char number[24];

	for (const char *at = status; *at; at += strspn(at, " ")) {
		const size_t bytes = strcspn(at, " ");

		if (bytes > length && bytes - length - 1 < sizeof(number) && at[length] == '=' &&
		    strncmp(at, key, length) == 0) {
			memcpy(number, at + length + 1, bytes - length - 1);
			number[bytes - length - 1] = '\0';
			return cs_parse_u64(number, UINT64_MAX, ret);
		}
		at += bytes;
	}
	return -ENOENT;
}

const char *cs_cmd_state_name(enum cs_guest_state state)
{
	switch (state) {
	case CS_GUEST_RUNNING:
		return "running";
	case CS_GUEST_STOPPED:
		return "stopped";
	case CS_GUEST_CRASHED:
		return "crashed";
	case CS_GUEST_PARKED:
		return "parked";
	case CS_GUEST_BROKEN:
		return "broken";
	}
	return "unknown";
}

int cs_cmd_memory_file(const char *name, size_t bytes)
{
	cs_auto(cs_fd_closep) int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return -errno;
	return cs_steal_fd(&fd);
}

/* ---- the host ------------------------------------------------------------------------------ */

uint64_t cs_cmd_meminfo(int root_fd, const char *key)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	size_t length = strlen(key);
	struct sysinfo host;
	uint64_t kib = 0;

	/* Each spawn asks twice: a system call for it costs a twentieth of reading the file. */
	if (root_fd == AT_FDCWD && strcmp(key, "MemTotal") == 0 && sysinfo(&host) == 0)
		return (uint64_t)host.totalram * host.mem_unit;
	if (cs_read_file_at(root_fd, root_fd == AT_FDCWD ? "/proc/meminfo" : "proc/meminfo", 65536,
			    &text, NULL) < 0)
		return 0;
	for (char *line = text; line; line = strchr(line, '\n')) {
		char *number, *end;

		line += *line == '\n';
		if (strncmp(line, key, length) != 0 || line[length] != ':')
			continue;
		number = line + length + 1;
		number += strspn(number, " ");
		end = number + strspn(number, "0123456789");
		*end = '\0';
		if (cs_parse_u64(number, UINT64_MAX >> 10, &kib) < 0)
			return 0;
		return kib << 10;
	}
	return 0;
}

void cs_cmd_raise_files(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur >= files.rlim_max)
		return;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
}

uint64_t cs_cmd_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t cs_cmd_now_ms(void)
{
	return cs_cmd_now_us() / 1000;
}

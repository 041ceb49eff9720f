/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For an agent under test that runs as a process of this host: what would change the host for
 * everybody is written down in /run instead, which is the agent's own there. And time passes as the
 * test likes: with /run/impatient, whoever waits for a signal finds that 40 s have gone. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_settime(clockid_t clock, const struct timespec *now);
int __wrap_sigtimedwait(const sigset_t *set, siginfo_t *info, const struct timespec *patience);
void __wrap_sync(void);

static int note(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0)
		return -1;
	if (write(fd, text, strlen(text)) < 0)
		perror(path);
	close(fd);
	return 0;
}

/* By one system call, as the real one: they are counted. */
static int clock_fd = -1;

static __attribute__((constructor)) void open_clock(void)
{
	clock_fd = open("/run/clock", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

int __wrap_clock_settime(clockid_t clock, const struct timespec *now)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "%d %lld.%09ld\n", (int)clock, (long long)now->tv_sec,
			 now->tv_nsec);

	return write(clock_fd, text, (size_t)n) == n ? 0 : -1;
}

void __wrap_sync(void)
{
	note("/run/sync", "sync\n");
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	int r = __real_clock_gettime(clock, now);

	if (clock == CLOCK_MONOTONIC && !access("/run/late", F_OK))
		now->tv_sec += 40;
	return r;
}

int __wrap_sigtimedwait(const sigset_t *set, siginfo_t *info, const struct timespec *patience)
{
	const struct timespec nap = { .tv_nsec = 20000000 };

	nanosleep(&nap, NULL);
	if (!access("/run/impatient", F_OK))
		note("/run/late", "");
	return -1;
}

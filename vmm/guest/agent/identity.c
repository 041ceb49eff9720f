/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What makes this guest another one than its neighbours from the same template. */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/file.h"
#include "vmm/guest/agent/kernel.h"

/* No CONFIG waits for so long, so the clocks did not go at one pace. */
#define LATE_MOST (60 * INT64_C(1000000000))

static int64_t raw_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void cs_identity_asks(struct cs_agent *a)
{
	a->clock_asked = raw_clock();
}

void cs_identity_heard(struct cs_agent *a, uint64_t clock_ns)
{
	const int64_t now = raw_clock();
	/* An answer was written between the question and now; half way is the best first guess. */
	const int64_t guess = a->clock_asked && !a->clock_known ? (now - a->clock_asked) / 2 : 0;
	const int64_t ahead = now - (int64_t)clock_ns - guess;

	if (!clock_ns)
		return;
	a->clock_asked = 0;
	if (!a->clock_known || ahead < a->clock_least || ahead - a->clock_least > LATE_MOST) {
		a->clock_least = ahead;
		a->clock_guess = guess;
	}
	a->clock_known = true;
}

void cs_identity_heard_idle(struct cs_agent *a, uint64_t clock_ns)
{
	if (!clock_ns)
		return;
	/* Not later than that half way of a boot, as a rule, which on a busy host is long. */
	if (a->clock_known)
		a->clock_least += a->clock_guess;
	a->clock_guess = 0;
	cs_identity_heard(a, clock_ns);
}

void cs_identity_clock(struct cs_agent *a)
{
	uint64_t ns = a->config.realtime_ns;
	struct timespec now;

	if (a->config.clock_ns && a->clock_known) {
		const int64_t late = raw_clock() - (int64_t)a->config.clock_ns - a->clock_least;

		if (late > 0 && late < LATE_MOST)
			ns += (uint64_t)late;
	}
	now.tv_sec = (time_t)(ns / 1000000000);
	now.tv_nsec = (long)(ns % 1000000000);
	if (clock_settime(CLOCK_REALTIME, &now) < 0)
		cs_agent_trouble(a, "cannot set the clock: %s", strerror(errno));
}

/* Addresses and routes of lo come by themselves. */
static void raise_lo(struct cs_agent *a)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return; /* a kernel without IP */
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		cs_agent_say(a, "cannot bring up lo: %s", strerror(errno));
	close(fd);
}

void cs_identity_kernel(struct cs_agent *a)
{
	if (a->config.seeded)
		cs_identity_clock(a);
	if (*a->config.hostname && sethostname(a->config.hostname, strlen(a->config.hostname)) < 0)
		cs_agent_trouble(a, "cannot set the host name: %s", strerror(errno));
	raise_lo(a);
}

/* Mixed into the key in use and into the pool: a fifth of the time of the way for any kernel, by
 * which it is credited to the pool and a new key made of that. */
static int mix_seed(int fd, const uint8_t seed[32])
{
	struct cs_rand_pool pool = { .entropy_bits = 8 * sizeof(pool.data),
				     .bytes = sizeof(pool.data) };
	int r;

	/* EINVAL: not our kernel. ENODATA: it has had no seed at all so far. */
	if (ioctl(fd, CS_RNDMIXKEY, seed) == 0)
		return 0;
	memcpy(pool.data, seed, sizeof(pool.data));
	r = ioctl(fd, CS_RNDADDENTROPY, &pool) < 0 || ioctl(fd, CS_RNDRESEEDCRNG) < 0 ? -errno : 0;
	explicit_bzero(&pool, sizeof(pool));
	return r;
}

/* At once: nobody in this guest has asked for a random byte yet, or since it was restored. */
void cs_identity_seed(struct cs_agent *a)
{
	int *fd = &a->wake.random;
	int r = 0;

	if (*fd < 0)
		*fd = open("/dev/urandom", O_RDWR | O_CLOEXEC | O_NOCTTY);
	if (*fd < 0)
		r = -errno;
	if (r == 0)
		r = mix_seed(*fd, a->config.seed);
	if (r < 0)
		cs_agent_trouble(a, "cannot seed the random pool: %s", strerror(-r));
	explicit_bzero(a->config.seed, sizeof(a->config.seed));
}

/* Outside of comments. */
bool cs_identity_has_name(const char *text, const char *word)
{
	static const char space[] = " \t\n";
	size_t n = strlen(word);

	while (*text) {
		size_t length;

		text += strspn(text, space);
		if (*text == '#') {
			text += strcspn(text, "\n");
			continue;
		}
		length = strcspn(text, space);
		if (length == n && !memcmp(text, word, n))
			return true;
		text += length;
	}

	return false;
}

/* The guest's own name must resolve: sudo, Java, mail programs and many others ask for it. */
static void name_in_hosts(struct cs_agent *a)
{
	static const char path[] = "/etc/hosts";
	char *now = cs_file_load(path);
	char line[160];
	int fd, n;

	if (!now || !cs_identity_has_name(now, a->config.hostname)) {
		n = snprintf(line, sizeof(line), "%s%s127.0.1.1\t%s\n",
			     now ? "" : "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n",
			     now && *now && now[strlen(now) - 1] != '\n' ? "\n" : "",
			     a->config.hostname);
		fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
		if (fd < 0 || cs_file_write_all(fd, line, (size_t)n) < 0)
			cs_agent_say(a, "cannot write %s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
	}
	free(now);
}

size_t cs_identity_uuid(uint8_t raw[16], bool dashes, char text[38])
{
	static const char digits[] = "0123456789abcdef";
	size_t n = 0;

	raw[6] = (raw[6] & 0x0f) | 0x40;
	raw[8] = (raw[8] & 0x3f) | 0x80;
	for (size_t i = 0; i < 16; i++) {
		if (dashes && (i == 4 || i == 6 || i == 8 || i == 10))
			text[n++] = '-';
		text[n++] = digits[raw[i] >> 4];
		text[n++] = digits[raw[i] & 15];
	}
	text[n++] = '\n';
	text[n] = 0;
	return n;
}

/* One that no other guest has, once for each overlay, of the shape that machine-id(5) has it in. A
 * root that has no such file at all does not use it (systemd's would write it itself, but take the
 * guest for newly installed). */
static void renew_machine_id(struct cs_agent *a)
{
	static const char path[] = "/etc/machine-id";
	bool run_init = a->config.flags & CS_WIRE_CONFIG_INIT;
	uint8_t raw[16];
	char text[38];

	if (!run_init && access(path, F_OK) < 0)
		return;
	if (getrandom(raw, sizeof(raw), 0) != sizeof(raw))
		return;

	cs_identity_uuid(raw, false, text);
	/* A link, as in some images to /var/lib/dbus, would only be followed: it is to be ours. */
	if (cs_file_write(path, text) < 0)
		cs_agent_say(a, "cannot write %s", path);
}

void cs_identity_root(struct cs_agent *a, bool fresh)
{
	char name[sizeof(a->config.hostname) + 1];

	if (a->config.seeded)
		cs_identity_seed(a);
	if (fresh)
		renew_machine_id(a);
	if (!*a->config.hostname)
		return;

	snprintf(name, sizeof(name), "%s\n", a->config.hostname);
	if (cs_file_set("/etc/hostname", name) < 0)
		cs_agent_say(a, "cannot write /etc/hostname");
	name_in_hosts(a);
}

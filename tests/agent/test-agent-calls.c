/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How many system calls a wake-up takes, from the monitor's word to READY. Where guest kernels are
 * emulated each of them costs a millisecond or more, and somebody waits. */
#include <errno.h>
#include <linux/random.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/agent/guest.h"

#define RNDMIXKEY 0x40205240 /* of vmm/guest/kernel/patches/0011; refused here */

#define COUNT "n=0; while :; do n=$((n+1)); echo $n >/run/count; sleep 0.01; done"

struct trace {
	pid_t pid;
	unsigned n;
	struct {
		uint64_t nr, arg[3];
	} call[256];
};

static void note_call(struct trace *t)
{
	struct __ptrace_syscall_info info = { .op = PTRACE_SYSCALL_INFO_NONE };

	assert_true(ptrace(PTRACE_GET_SYSCALL_INFO, t->pid, sizeof(info), &info) > 0);
	if (info.op != PTRACE_SYSCALL_INFO_ENTRY || t->n == 256)
		return;
	t->call[t->n].nr = info.entry.nr;
	memcpy(t->call[t->n++].arg, info.entry.args, sizeof(t->call[0].arg));
}

/* Let it run, and write down what it calls, until (fd) has something to read. */
static void run_until(struct trace *t, int fd)
{
	const struct timespec nap = { .tv_nsec = 1000000 };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int status;

	for (int i = 0; i < PEER_PATIENCE_MS && poll(&p, 1, 0) == 0;) {
		int signal = 0;

		if (waitpid(t->pid, &status, WNOHANG | __WALL) != t->pid) {
			nanosleep(&nap, NULL);
			i++;
			continue;
		}
		assert_true(WIFSTOPPED(status));
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			note_call(t);
		else if (status >> 16 == 0)
			signal = WSTOPSIG(status);
		assert_int_equal(ptrace(PTRACE_SYSCALL, t->pid, NULL, signal), 0);
	}
	assert_int_equal(poll(&p, 1, 0), 1);
}

static void begin(struct trace *t, const struct guest *g)
{
	*t = (struct trace){ .pid = g->peer.pid };
	if (ptrace(PTRACE_SEIZE, t->pid, NULL, PTRACE_O_TRACESYSGOOD) < 0) {
		print_message("ptrace: %s\n", strerror(errno));
		skip();
	}
	assert_int_equal(ptrace(PTRACE_INTERRUPT, t->pid, NULL, NULL), 0);
}

/* Seeded before anything of the guest's own happens, and thawed behind all of it. */
static void check_order(const struct trace *t, unsigned first, unsigned last)
{
	static const unsigned seeding[] = { RNDMIXKEY, RNDADDENTROPY, RNDRESEEDCRNG };
	unsigned seeded = 0, thawed = 0;

	for (unsigned i = first; i < last; i++) {
		const uint64_t nr = t->call[i].nr, *arg = t->call[i].arg;

		if (nr == SYS_ioctl) {
			assert_true(seeded < 3);
			assert_int_equal(arg[1], seeding[seeded++]);
			continue;
		}
		if (nr != SYS_connect && nr != SYS_sendto && nr != SYS_recvfrom)
			assert_int_equal(seeded, 3);
		if (thawed)
			assert_int_equal(nr, SYS_sendto);
		/* The "0" for the freezer is the only one so short. */
		thawed += nr == SYS_pwrite64 && arg[2] == 1;
	}
	assert_int_equal(seeded, 3);
	assert_true(thawed <= 1);
}

/* The calls between the wait for events and the last message sent. */
static unsigned end(struct trace *t)
{
	unsigned first = 0, last = t->n;
	int status;

	ptrace(PTRACE_INTERRUPT, t->pid, NULL, NULL);
	while (waitpid(t->pid, &status, __WALL) == t->pid && WIFSTOPPED(status) &&
	       WSTOPSIG(status) == (SIGTRAP | 0x80) && status >> 16 == 0)
		ptrace(PTRACE_SYSCALL, t->pid, NULL, 0);
	ptrace(PTRACE_DETACH, t->pid, NULL, NULL);

	while (last && t->call[last - 1].nr != SYS_sendto)
		last--;
	for (unsigned i = 0; i < last; i++) {
		if (t->call[i].nr == SYS_epoll_wait || t->call[i].nr == SYS_epoll_pwait)
			first = i + 1;
	}
	print_message("%u system calls:", last - first);
	for (unsigned i = first; i < last; i++)
		print_message(" %lu", (unsigned long)t->call[i].nr);
	print_message("\n");
	assert_true(last > first);
	check_order(t, first, last);
	return last - first;
}

static void boot(struct guest *g, bool processes)
{
	static const char *const files[] = { "/etc/machine-id",
					     "0123456789abcdef0123456789abcdef\n",
					     "/etc/hostname",
					     "first\n",
					     "/etc/hosts",
					     "127.0.0.1\tlocalhost\n127.0.1.1\tfirst\n",
					     NULL };
	const struct guest_config config = { .hostname = "first",
					     .argv = processes ? ARGV("sh", "-c", COUNT) : NULL };

#ifdef __SANITIZE_ADDRESS__
	print_message("sanitizers make system calls of their own\n");
	skip();
#endif
	guest_boot(g, &config, files);
	if (processes)
		guest_assert_changes(g, "/run/count");
	guest_freeze(g, 0);
}

static unsigned resume(struct guest *g)
{
	uint8_t payload[CS_WIRE_MAX + 1];
	struct trace t;

	begin(&t, g);
	guest_send_config(g, &(struct guest_config){ .hostname = "second" });
	run_until(&t, g->control);
	peer_expect(g->control, CS_WIRE_READY, payload);
	return end(&t);
}

static unsigned reconnect(struct guest *g)
{
	uint8_t payload[CS_WIRE_MAX + 1];
	struct trace t;

	begin(&t, g);
	close(g->control);
	run_until(&t, g->listener);
	g->control = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC);
	run_until(&t, g->control);
	peer_expect(g->control, CS_WIRE_HELLO, payload);
	guest_send_config(g, &(struct guest_config){ .hostname = "second" });
	run_until(&t, g->control);
	peer_expect(g->control, CS_WIRE_READY, payload);
	return end(&t);
}

/* Receive, three for the seed, clock, READY. With our kernel one for the seed. */
static void test_empty(void **state)
{
	boot(*state, false);
	assert_true(resume(*state) <= 6);
	guest_end(*state);
}

/* Also the name, four files, the thaw. */
static void test_processes(void **state)
{
	boot(*state, true);
	assert_true(resume(*state) <= 12);
	guest_end(*state);
}

/* Also connect, and HELLO. */
static void test_empty_anew(void **state)
{
	boot(*state, false);
	assert_true(reconnect(*state) <= 8);
	guest_end(*state);
}

static void test_processes_anew(void **state)
{
	boot(*state, true);
	assert_true(reconnect(*state) <= 14);
	guest_assert_changes(*state, "/run/count");
	guest_end(*state);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, guest_make, guest_unmake)
	const struct CMUnitTest tests[] = {
		TEST(empty),
		TEST(processes),
		TEST(empty_anew),
		TEST(processes_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

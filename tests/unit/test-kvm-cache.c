/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the KVM probe found, kept and found again, or not: on a /run of the test's own. */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/kvm-private.h"

#define FILE_NAME "/run/clearstore/kvm"
#define FEATURES  0xfea7u

static struct kvm_cpuid2 *table(void)
{
	struct kvm_cpuid2 *t = calloc(1, sizeof(*t) + CS_CPUID_ENTRIES * sizeof(t->entries[0]));

	assert_non_null(t);
	return t;
}

/* Any file stands for /dev/kvm. */
static void open_kvm(struct cs_host_kvm *kvm, const char *device)
{
	*kvm = (struct cs_host_kvm){ .fd = open(device, O_RDONLY | O_CLOEXEC) };
	assert_true(kvm->fd >= 0);
	kvm->cpuid = table();
	kvm->shown = table();
	kvm->cpu_features = FEATURES;
}

static void close_kvm(struct cs_host_kvm *kvm)
{
	close(kvm->fd);
	free(kvm->cpuid);
	free(kvm->shown);
}

static void remember(void)
{
	struct cs_host_kvm kvm;

	open_kvm(&kvm, "/dev/null");
	kvm.tsc_khz = 2500000;
	kvm.tsc_fixed = true;
	kvm.info.standard = true;
	kvm.cpuid->nent = 3;
	kvm.cpuid->entries[2].eax = 76;
	kvm.shown->nent = 2;
	kvm.shown->entries[1].ecx = 77;
	cs_kvm_remember(&kvm);
	close_kvm(&kvm);
}

static bool recalls(struct cs_host_kvm *kvm)
{
	bool found = cs_kvm_recall(kvm);

	close_kvm(kvm);
	return found;
}

/* The namespace is the whole program's. */
static int setup(void **state)
{
	static bool unable = true;

	unable = geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
		 mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		 mount("run", "/run", "tmpfs", 0, "mode=755") < 0;
	*state = &unable;
	return 0;
}

static void need_root(void **state)
{
	if (*(bool *)*state) {
		print_message("skipped: needs root, to mount a /run of its own\n");
		skip();
	}
}

static void test_found_again(void **state)
{
	struct cs_host_kvm kvm;

	need_root(state);
	open_kvm(&kvm, "/dev/null");
	assert_false(recalls(&kvm));
	remember();
	open_kvm(&kvm, "/dev/null");
	assert_true(cs_kvm_recall(&kvm));
	assert_int_equal(kvm.tsc_khz, 2500000);
	assert_true(kvm.tsc_fixed);
	assert_true(kvm.info.standard);
	assert_int_equal(kvm.cpuid->nent, 3);
	assert_int_equal(kvm.cpuid->entries[2].eax, 76);
	assert_int_equal(kvm.shown->nent, 2);
	assert_int_equal(kvm.shown->entries[1].ecx, 77);
	close_kvm(&kvm);
}

static void test_of_another(void **state)
{
	struct cs_host_kvm kvm;

	need_root(state);
	remember();
	open_kvm(&kvm, "/dev/zero");
	assert_false(recalls(&kvm));
	open_kvm(&kvm, "/dev/null");
	kvm.cpu_features = FEATURES + 1;
	assert_false(recalls(&kvm));
}

/* Every byte counts, and so does who could have written them. */
static void test_damaged(void **state)
{
	struct cs_host_kvm kvm;
	unsigned char byte;
	struct stat st;
	int fd;

	need_root(state);
	remember();
	fd = open(FILE_NAME, O_RDWR | O_CLOEXEC);
	assert_int_equal(fstat(fd, &st), 0);
	for (off_t at = 0; at < st.st_size; at += at < 128 ? 1 : 97) {
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		byte ^= 1;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
		open_kvm(&kvm, "/dev/null");
		assert_false(recalls(&kvm));
		byte ^= 1;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	open_kvm(&kvm, "/dev/null");
	assert_true(recalls(&kvm));
	assert_int_equal(fchmod(fd, 0666), 0);
	open_kvm(&kvm, "/dev/null");
	assert_false(recalls(&kvm));
	assert_int_equal(fchmod(fd, 0644), 0);
	assert_int_equal(ftruncate(fd, st.st_size - 1), 0);
	open_kvm(&kvm, "/dev/null");
	assert_false(recalls(&kvm));
	assert_int_equal(ftruncate(fd, 0), 0);
	open_kvm(&kvm, "/dev/null");
	assert_false(recalls(&kvm));
	close(fd);
}

/* A process moves from CPU to CPU: on whichever it asks, the host is the same. */
static void test_same_on_every_cpu(void **state)
{
	const uint32_t features = cs_host_cpu_features();
	cpu_set_t all, one;
	unsigned seen = 0;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	for (int cpu = 0; cpu < CPU_SETSIZE && seen < 64; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (sched_setaffinity(0, sizeof(one), &one) < 0)
			continue; /* taken away meanwhile */
		assert_int_equal(cs_host_cpu_features(), features);
		seen++;
	}
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	assert_true(seen > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_found_again),
		cmocka_unit_test(test_of_another),
		cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_same_on_every_cpu),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes vmm/sandbox-filter.h, when the program is built. */
#include <errno.h>
#include <linux/filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store/base/own.h"
#include "vmm/sandbox-rules.h"

#define CODE_MAX 4096u /* BPF_MAXINSNS */

/* Where the process that may be sent signals to is compared; there must be one such place. */
static int find_pid(const struct sock_filter *code, size_t n, size_t *ret)
{
	size_t found = 0;

	for (size_t i = 0; i < n; i++) {
		if (code[i].k != CS_SANDBOX_NOBODY)
			continue;
		if (code[i].code != (BPF_JMP | BPF_JEQ | BPF_K))
			return -EPROTO;
		*ret = i;
		found++;
	}
	return found == 1 ? 0 : -EPROTO;
}

static int write_filter(const char *name, const char *upper, bool restores)
{
	cs_auto(cs_mem_freep) struct sock_filter *code = calloc(CODE_MAX, sizeof(*code));
	cs_auto(cs_fd_closep) int fd = memfd_create("filter", MFD_CLOEXEC);
	ssize_t bytes;
	size_t n, pid;
	int r;

	if (!code)
		return -ENOMEM;
	if (fd < 0)
		return -errno;
	r = cs_sandbox_rules(restores, CS_SANDBOX_NOBODY, fd);
	if (r < 0)
		return r;
	bytes = pread(fd, code, CODE_MAX * sizeof(*code), 0);
	n = bytes > 0 ? (size_t)bytes / sizeof(*code) : 0;
	r = n < CODE_MAX ? find_pid(code, n, &pid) : -E2BIG;
	if (r < 0)
		return r;
	printf("\n#define CS_FILTER_%s_PID %zu\nstatic const struct sock_filter cs_filter_%s[] = "
	       "{\n",
	       upper, pid, name);
	for (size_t i = 0; i < n; i++)
		printf("\t{ %#x, %u, %u, %#x },\n", code[i].code, code[i].jt, code[i].jf,
		       code[i].k);
	printf("};\n");
	return 0;
}

int main(void)
{
	int r;

	puts("/* Written by vmm/make-filter of what vmm/sandbox-rules.c says. */");
	r = write_filter("running", "RUNNING", false);
	if (r == 0)
		r = write_filter("restoring", "RESTORING", true);
	if (r < 0)
		fprintf(stderr, "make-filter: %s\n", strerror(-r));
	return r < 0 || fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

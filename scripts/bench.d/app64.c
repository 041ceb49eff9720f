/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The work of M3 (docs/measuring.md): 64 MiB of heap, filled once; for each line that comes by
 * vsock, port 6400, all of it is read and its sum is answered. Put into a root by
 * scripts/bench-all: gcc -O2 -static. */
#define _GNU_SOURCE
#include <linux/vm_sockets.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORDS ((size_t)(64 << 20) / sizeof(uint64_t))
#define PORT  6400

static uint64_t sum(const uint64_t *heap)
{
	uint64_t total = 0;

	for (size_t i = 0; i < WORDS; i++)
		total += heap[i];
	return total;
}

/* Bytes that no two pages have alike. */
static uint64_t *fill(void)
{
	uint64_t *heap = malloc(WORDS * sizeof(*heap)), x = 88172645463325252u;

	for (size_t i = 0; heap && i < WORDS; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		heap[i] = x;
	}
	return heap;
}

int main(void)
{
	const struct sockaddr_vm here = { .svm_family = AF_VSOCK,
					  .svm_cid = VMADDR_CID_ANY,
					  .svm_port = PORT };
	int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const uint64_t *heap = fill();
	FILE *ready;

	if (!heap || listener < 0 || bind(listener, (const void *)&here, sizeof(here)) < 0 ||
	    listen(listener, 16) < 0)
		return 1;
	ready = fopen("/run/app64", "we");
	if (ready)
		fclose(ready);
	for (;;) {
		int line = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		char word[64];

		while (line >= 0 && read(line, word, sizeof(word)) > 0)
			dprintf(line, "%llu\n", (unsigned long long)sum(heap));
		if (line >= 0)
			close(line);
	}
}

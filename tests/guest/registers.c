/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process that does nothing but hold patterns in all the vector registers it is told it has, for
 * a test to run more of than there are CPUs: the kernel must keep them for each. A signal comes all
 * the time, whose handler has others there: its frame must keep them, too.
 *
 *   registers SEED SECONDS
 *
 * Ends after SECONDS and one signal. Prints "sse", "avx" or "avx512", what it held, then "kept" or
 * "changed". Exit 0: kept. */
#include <cpuid.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define REGISTERS 32
#define BYTES     64
#define XCR0_AVX  0x06u /* SDM volume 1, section 13.3: SSE and the upper halves of YMM */
#define XCR0_512  0xe6u /* and opmasks, the upper halves of ZMM, ZMM16 to 31 */

#define HOLD_LOOPS   5000000ul /* long enough to be preempted in: a few ms */
#define HANDLE_LOOPS 1000ul
#define SIGNAL_US    20000
#define HOLD         "mov %2, %%rcx\n1: dec %%rcx\njnz 1b\n"
#define FIRST_16     "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define LAST_16      "16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"
#define MOVES(move, kind, list)                                                                    \
	".irp n," list "\n" move " 64*\\n(%0), %%" kind "\\n\n.endr\n" HOLD ".irp n," list         \
	"\n" move " %%" kind "\\n, 64*\\n(%1)\n.endr\n"
#define CLOBBERED                                                                                  \
	"rcx", "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",     \
		"xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

enum kind { SSE, AVX, AVX512 };
static const char *const name[] = { "sse", "avx", "avx512" };

/* What CPUID and XGETBV say may be used, as a C library asks. */
static enum kind widest(void)
{
	uint32_t a, b, c, d, low, high;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX))
		return SSE;
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	if ((low & XCR0_AVX) != XCR0_AVX)
		return SSE;
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX512F) ||
	    (low & XCR0_512) != XCR0_512)
		return AVX;
	return AVX512;
}

static void hold(enum kind kind, const uint8_t *in, uint8_t *out, unsigned long loops)
{
	if (kind == SSE)
		__asm__ volatile(MOVES("movdqu", "xmm", FIRST_16)
				 :
				 : "r"(in), "r"(out), "r"(loops)
				 : CLOBBERED);
	else if (kind == AVX)
		__asm__ volatile(MOVES("vmovdqu", "ymm", FIRST_16) "vzeroupper\n"
				 :
				 : "r"(in), "r"(out), "r"(loops)
				 : CLOBBERED);
	else
		__asm__ volatile(MOVES("vmovdqu64", "zmm", FIRST_16 "," LAST_16) "vzeroupper\n"
				 :
				 : "r"(in), "r"(out), "r"(loops)
				 : CLOBBERED);
}

static volatile sig_atomic_t handled;

static void on_alarm(int number)
{
	uint8_t in[REGISTERS * BYTES], out[REGISTERS * BYTES];

	memset(in, 0xa5, sizeof(in));
	hold(widest(), in, out, HANDLE_LOOPS);
	handled = number;
}

static void start_alarms(void)
{
	const struct itimerval often = { { 0, SIGNAL_US }, { 0, SIGNAL_US } };
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
}

int main(int argc, char **argv)
{
	static const size_t bytes[] = { 16, 32, 64 }, registers[] = { 16, 16, 32 };
	const enum kind kind = widest();
	uint8_t in[REGISTERS][BYTES], out[REGISTERS][BYTES];
	struct timespec now;
	time_t end;
	bool kept = true;

	if (argc != 3) {
		fprintf(stderr, "registers SEED SECONDS\n");
		return 2;
	}
	for (size_t i = 0; i < REGISTERS; i++)
		for (size_t j = 0; j < BYTES; j++)
			in[i][j] = (uint8_t)(atoi(argv[1]) * 31 + (int)(i * BYTES + j));
	start_alarms();
	clock_gettime(CLOCK_MONOTONIC, &now);
	end = now.tv_sec + atoi(argv[2]);
	do {
		memset(out, 0, sizeof(out));
		hold(kind, in[0], out[0], HOLD_LOOPS);
		for (size_t i = 0; i < registers[kind]; i++)
			kept = kept && memcmp(in[i], out[i], bytes[kind]) == 0;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end || !handled);
	printf("%s %s\n", name[kind], kept ? "kept" : "changed");
	return kept ? 0 : 1;
}

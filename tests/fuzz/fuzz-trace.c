/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A trace of the tuner that says anything. What is accepted is in order.
 */
#include <stdio.h>
#include <string.h>

#include "ksm/trace.h"
#include "tests/fuzz/fuzz.h"

const uint64_t fuzz_inputs = 20000;

/* A start that gets past the first checks. */
static size_t seed(char *text, size_t room)
{
	size_t used;

	fuzz_require(cs_ksm_trace_head(text) == 0);
	used = strlen(text);
	for (int i = 0; i < 8; i++) {
		struct cs_ksm_row row = { cs_ksm_sample_unknown(), cs_ksm_setting_unknown() };
		char line[CS_KSM_TRACE_LINE];

		row.seen.at_ms = i * 500;
		row.seen.enrolled_bytes = 10000000 + i * 1000000;
		row.seen.pages_sharing = i * 100;
		row.seen.pages_scanned = i * 10000;
		row.seen.ksmd_us = i * 20000;
		row.seen.cow_ksm = i;
		row.set.run = 1;
		fuzz_require(cs_ksm_trace_line(&row, line) == 0);
		fuzz_require(used + strlen(line) < room);
		memcpy(text + used, line, strlen(line) + 1);
		used += strlen(line);
	}
	return used;
}

static void check(const struct cs_ksm_trace *trace)
{
	fuzz_require(trace->n > 0);
	for (size_t i = 1; i < trace->n; i++)
		fuzz_require(trace->row[i].seen.at_ms >= trace->row[i - 1].seen.at_ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input in = { data, bytes };
	static const char digits[] = "0123456789,-\n x";
	char text[8192];
	const size_t used = seed(text, sizeof(text));
	const unsigned changes = fuzz_byte(&in) % 12;
	struct cs_ksm_trace trace;

	for (unsigned i = 0; i < changes; i++) {
		const size_t at = fuzz_u16(&in) % used;

		text[at] = digits[fuzz_byte(&in) % (sizeof(digits) - 1)];
	}
	text[fuzz_byte(&in) % 8 ? used : fuzz_u16(&in) % used] = '\0';
	if (cs_ksm_trace_parse(text, &trace, NULL) == 0) {
		check(&trace);
		cs_ksm_trace_clear(&trace);
	}
	return 0;
}

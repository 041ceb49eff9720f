/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* main() of a fuzz target without libFuzzer.
 *
 *   fuzz-X               so many inputs from a fixed seed (CLEARSTORE_FUZZ_INPUTS,
 * CLEARSTORE_FUZZ_SEED) fuzz-X FILE...       these inputs: to see a finding again
 */
#include <inttypes.h>
#include <string.h>

#include "store/base/num.h"
#include "tests/fuzz/fuzz.h"

#define BYTES_MAX 2048

static uint64_t next(uint64_t *random)
{
	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	return *random;
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	if (text && cs_parse_u64(text, UINT64_MAX, &otherwise) < 0) {
		printf("Bail out! %s is not a number\n", name);
		exit(1);
	}
	return otherwise;
}

static int from_files(int n, char **name)
{
	static uint8_t data[1 << 20];

	for (int i = 0; i < n; i++) {
		FILE *file = fopen(name[i], "re");
		size_t bytes;

		if (!file) {
			perror(name[i]);
			return 1;
		}
		bytes = fread(data, 1, sizeof(data), file);
		fclose(file);
		LLVMFuzzerTestOneInput(data, bytes);
		printf("%s: nothing found\n", name[i]);
	}
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t inputs = setting("CLEARSTORE_FUZZ_INPUTS", fuzz_inputs);
	uint64_t random = setting("CLEARSTORE_FUZZ_SEED", 88172645463325252u);
	uint8_t data[BYTES_MAX];

	if (argc > 1)
		return from_files(argc - 1, argv + 1);
	puts("1..1");
	for (uint64_t i = 0; i < inputs; i++) {
		size_t bytes = next(&random) % sizeof(data);

		for (size_t at = 0; at < bytes; at++)
			data[at] = (uint8_t)(next(&random) >> 24);
		LLVMFuzzerTestOneInput(data, bytes);
	}
	printf("ok 1 - %" PRIu64 " inputs\n", inputs);
	return 0;
}

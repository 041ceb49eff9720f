/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A manifest that says anything. What is accepted must be within the bounds that its readers count
 * on, and come out the same when it is written and read again. */
#include <string.h>

#include "store/manifest.h"
#include "tests/fuzz/fuzz.h"

const uint64_t fuzz_inputs = 100000;

static void check(const struct cs_manifest *m)
{
	fuzz_require(m->cmdline && strlen(m->cmdline) < 2048);
	fuzz_require(strlen(m->kernel_release) < CS_RELEASE_TEXT);
	fuzz_require(strlen(m->agent_sha256) == CS_DIGEST_TEXT - 1);
	for (int part = 0; part < CS_PART_MAX; part++) {
		if (!m->part[part].present)
			continue;
		fuzz_require(m->part[part].bytes > 0 && m->part[part].bytes <= UINT64_C(1) << 44);
		fuzz_require(strlen(m->part[part].sha256) == CS_DIGEST_TEXT - 1);
		fuzz_require(m->part[part].media <= CS_MEDIA_DEVDAX);
		fuzz_require(m->part[part].media == CS_MEDIA_FILE || m->part[part].where[0] == '/');
		fuzz_require(memchr(m->part[part].where, 0, sizeof(m->part[part].where)));
		fuzz_require(!m->part[part].verity[0] ||
			     strlen(m->part[part].verity) == CS_DIGEST_TEXT - 1);
	}
	fuzz_require(memchr(m->saved.run, 0, CS_WARM_TEXT) &&
		     memchr(m->saved.ready, 0, CS_WARM_TEXT));
	fuzz_require(memchr(m->parent, 0, sizeof(m->parent)) && !strchr(m->parent, '/'));
}

/* A start that gets past the first checks: random bytes alone would never. */
static char *seed(void)
{
	static const char digest[] =
		"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
	struct cs_manifest m = { .created = 1700000000, .cmdline = (char *)"quiet" };
	char *text = NULL;

	memcpy(m.kernel_release, "6.12", 5);
	memcpy(m.agent_sha256, digest, sizeof(digest));
	for (int part = 0; part < CS_PART_MAX; part++) {
		m.part[part].present = true;
		m.part[part].bytes = 4096;
		memcpy(m.part[part].sha256, digest, sizeof(digest));
	}
	m.saved =
		(struct cs_manifest_saved){ true, 4096, 1, false, true, "nginx", "test -e /run/x" };
	memcpy(m.parent, "1", 2);
	memcpy(m.part[CS_PART_KERNEL].verity, digest, sizeof(digest));
	m.part[CS_PART_ROOT].media = CS_MEDIA_FSDAX;
	memcpy(m.part[CS_PART_ROOT].where, "/pmem/x", 8);
	fuzz_require(cs_manifest_format(&m, &text, NULL) == 0);
	return text;
}

/* The first bytes say what is to be changed in the sample; none: the input is the text. */
static char *text_of(struct fuzz_input *in, size_t *ret_bytes)
{
	char *text;
	unsigned changes = fuzz_byte(in) % 8;

	if (!changes) {
		text = malloc(in->left + 1);
		fuzz_require(text);
		memcpy(text, in->at, in->left);
		*ret_bytes = in->left;
		return text;
	}
	text = seed();
	*ret_bytes = strlen(text);
	while (changes--) {
		size_t at = fuzz_u16(in) % *ret_bytes;

		text[at] = (char)fuzz_byte(in);
	}
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input in = { .at = data, .left = bytes };
	struct cs_manifest *first = NULL, *second = NULL;
	struct cs_err err = { 0 };
	char *text, *again = NULL;
	size_t text_bytes;

	text = text_of(&in, &text_bytes);
	if (cs_manifest_parse(text, text_bytes, &first, &err) < 0) {
		fuzz_require(!first && err.code && err.text[0]);
		free(text);
		return 0;
	}
	check(first);
	fuzz_require(cs_manifest_format(first, &again, &err) == 0);
	fuzz_require(cs_manifest_parse(again, strlen(again), &second, &err) == 0);
	fuzz_require(!strcmp(first->cmdline, second->cmdline));
	fuzz_require(!memcmp(first->part, second->part, sizeof(first->part)));
	cs_manifest_free(first);
	cs_manifest_free(second);
	free(again);
	free(text);
	return 0;
}

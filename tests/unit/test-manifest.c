/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* manifest.json there and back, and everything that one may be instead. */
#include <errno.h>

#include "store/manifest.h"
#include "tests/unit/scratch.h"

#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const struct cs_manifest sample = {
	.created = 1700000000,
	.root_format = CS_ROOT_EXT4,
	.stock_kernel = true,
	.kernel_release = "6.12.1-test",
	.agent_sha256 = DIGEST,
	.cmdline = (char *)"quiet name=\"a b\" \xc3\xa4",
	.input_bytes = UINT64_C(1) << 50,
	.files = 12345,
	.part = {
		[CS_PART_KERNEL] = { true, CS_MEDIA_FILE, 14125248, 14127104, DIGEST },
		[CS_PART_ROOT] = { true, CS_MEDIA_FILE, UINT64_C(1) << 40, 0, DIGEST },
		[CS_PART_DISK] = { true, CS_MEDIA_FILE, UINT64_C(8) << 30, 4096, DIGEST },
	},
};

static void test_there_and_back(void **state)
{
	struct scratch *scratch = *state;
	struct cs_manifest *got = NULL;
	struct stat st;

	assert_int_equal(cs_manifest_save(scratch->fd, &sample, NULL), 0);
	assert_int_equal(fstatat(scratch->fd, "manifest.json", &st, 0), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0444);
	assert_int_equal(cs_manifest_load(scratch->fd, &got, NULL), 0);
	assert_int_equal(got->created, sample.created);
	assert_int_equal(got->root_format, sample.root_format);
	assert_true(got->stock_kernel);
	assert_string_equal(got->kernel_release, sample.kernel_release);
	assert_string_equal(got->agent_sha256, sample.agent_sha256);
	assert_string_equal(got->cmdline, sample.cmdline);
	assert_int_equal(got->input_bytes, sample.input_bytes);
	assert_int_equal(got->files, sample.files);
	for (int part = 0; part < CS_PART_MAX; part++) {
		assert_int_equal(got->part[part].present, sample.part[part].present);
		assert_int_equal(got->part[part].bytes, sample.part[part].bytes);
		assert_int_equal(got->part[part].stored_bytes, sample.part[part].stored_bytes);
		assert_int_equal(got->part[part].media, sample.part[part].media);
		assert_string_equal(got->part[part].sha256, sample.part[part].sha256);
	}
	cs_manifest_free(got);
	assert_null(cs_manifest_free(NULL));
}

/* With a saved machine in it; and none of what that consists of alone. */
static void test_saved(void **state)
{
	static const char *const broken[][2] = {
		{ "\"saved\": {", "\"safe\": {" },
		{ "\"memory\": {", "\"initrd\": {" },
		{ "\"state\": {", "\"initrd\": {" },
		{ "\"ram_bytes\": 134217728", "\"ram_bytes\": 134217729" },
		{ "\"vcpus\": 2", "\"vcpus\": 4097" },
		{ "\"disk\": true", "\"disk\": 1" },
	};
	struct cs_manifest with = sample;
	struct cs_manifest *got = NULL, *copy;
	char *text = NULL;

	with.saved = (struct cs_manifest_saved){ true, 128 << 20, 2, true, true, "sleep 9 &", "" };
	with.part[CS_PART_MEMORY] =
		(struct cs_manifest_part){ true, CS_MEDIA_FILE, 128 << 20, 0, DIGEST };
	with.part[CS_PART_STATE] =
		(struct cs_manifest_part){ true, CS_MEDIA_FILE, 9999, 0, DIGEST };
	assert_int_equal(cs_manifest_format(&with, &text, NULL), 0);
	assert_int_equal(cs_manifest_parse(text, strlen(text), &got, NULL), 0);
	copy = cs_manifest_copy(got);
	assert_non_null(copy);
	assert_true(copy->saved.present && copy->saved.disk);
	assert_int_equal(copy->saved.ram_bytes, 128 << 20);
	assert_int_equal(copy->saved.vcpus, 2);
	assert_true(copy->saved.warmed);
	assert_string_equal(copy->saved.run, "sleep 9 &");
	assert_string_equal(copy->saved.ready, "");
	assert_string_equal(copy->cmdline, sample.cmdline);
	cs_manifest_free(copy);
	got = cs_manifest_free(got);
	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		char *at = strstr(text, broken[i][0]), *bad;

		assert_non_null(at);
		assert_true(asprintf(&bad, "%.*s%s%s", (int)(at - text), text, broken[i][1],
				     at + strlen(broken[i][0])) > 0);
		assert_int_equal(cs_manifest_parse(bad, strlen(bad), &got, NULL), -EBADMSG);
		assert_null(got);
		free(bad);
	}
	free(text);
}

/* Of a saved machine on DAX nothing is ever merged; without one there is nothing to say. */
static void test_merges(void **state)
{
	static const struct {
		enum cs_media media;
		const char *begins;
	} rows[] = {
		{ CS_MEDIA_FILE, "yes: " },
		{ CS_MEDIA_FSDAX, "no: " },
		{ CS_MEDIA_DEVDAX, "no: " },
	};
	struct cs_manifest with = sample;

	(void)state;
	/* where the root lies does not matter: it is never written to */
	with.part[CS_PART_ROOT].media = CS_MEDIA_FSDAX;
	assert_null(cs_manifest_merges(&with));
	with.saved.present = true;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		with.part[CS_PART_MEMORY].media = rows[i].media;
		assert_ptr_equal(strstr(cs_manifest_merges(&with), rows[i].begins),
				 cs_manifest_merges(&with));
	}
}

/* What could not be read again is not written. */
static void test_unwritable(void **state)
{
	struct scratch *scratch = *state;
	struct cs_manifest with = sample;
	struct cs_manifest_part *root = &with.part[CS_PART_ROOT];
	struct cs_err err = { 0 };

	root->media = CS_MEDIA_FSDAX;
	snprintf(root->where, sizeof(root->where), "/mnt/\xff/root");
	assert_int_equal(cs_manifest_save(scratch->fd, &with, &err), -EINVAL);
	assert_non_null(strstr(err.text, "part 'root'"));
	snprintf(root->where, sizeof(root->where), "/mnt/\n/root");
	assert_int_equal(cs_manifest_save(scratch->fd, &with, &err), -EINVAL);
	assert_non_null(strstr(err.text, "'where' holds a control character"));
	snprintf(root->where, sizeof(root->where), "/mnt/\xc3\xa4/root");
	assert_int_equal(cs_manifest_save(scratch->fd, &with, &err), 0);
	assert_int_equal(unlinkat(scratch->fd, "manifest.json", 0), 0);
	with = sample;
	with.cmdline = (char *)"quiet\nloud";
	assert_int_equal(cs_manifest_save(scratch->fd, &with, &err), -EINVAL);
	assert_non_null(strstr(err.text, "'cmdline' holds a control character"));
	assert_int_equal(scratch_count(scratch->fd, "."), 0);
}

static void test_missing(void **state)
{
	struct scratch *scratch = *state;
	struct cs_manifest *got = NULL;
	struct cs_err err = { 0 };

	assert_int_equal(cs_manifest_load(scratch->fd, &got, &err), -ENOENT);
	assert_non_null(strstr(err.text, "manifest.json"));
	assert_int_equal(mkdirat(scratch->fd, "manifest.json", 0700), 0);
	assert_int_equal(cs_manifest_load(scratch->fd, &got, NULL), -EISDIR);
	assert_int_equal(unlinkat(scratch->fd, "manifest.json", AT_REMOVEDIR), 0);
	/* a link could lead anywhere */
	assert_int_equal(symlinkat("/etc/passwd", scratch->fd, "manifest.json"), 0);
	assert_int_equal(cs_manifest_load(scratch->fd, &got, NULL), -ELOOP);
	assert_null(got);
}

/* The text of the sample with (from) made (to): must be refused as (code), naming (word). */
static void refuse(const char *from, const char *to, int code, const char *word)
{
	struct cs_manifest *got = NULL;
	struct cs_err err = { 0 };
	char *text = NULL, *broken, *at;
	int r;

	assert_int_equal(cs_manifest_format(&sample, &text, NULL), 0);
	at = strstr(text, from);
	if (!at)
		fail_msg("'%s' is not in the sample", from);
	broken = malloc(strlen(text) + strlen(to) + 1);
	assert_non_null(broken);
	memcpy(broken, text, (size_t)(at - text));
	strcpy(broken + (at - text), to);
	strcat(broken, at + strlen(from));
	r = cs_manifest_parse(broken, strlen(broken), &got, &err);
	if (r != code || !strstr(err.text, word))
		fail_msg("'%s' made '%s': %d, '%s'", from, to, r, err.text);
	assert_null(got);
	free(broken);
	free(text);
}

static void test_refused(void **state)
{
	refuse("\"format\": 1", "\"format\": 2", -EPROTO, "newer clearstore");
	refuse("\"format\": 1", "\"format\": \"1\"", -EBADMSG, "'format' is no whole number");
	refuse("\"format\": 1", "\"format\": -1", -EBADMSG, "out of range");
	refuse("\"format\": 1", "\"format\": 99999999999999999999", -EBADMSG, "not JSON");
	refuse("\"format\": 1", "\"formal\": 1", -EBADMSG, "'format' is missing");
	refuse("\"format\": 1", "\"format\": 1, \"format\": 1", -EBADMSG, "not JSON");
	refuse("1700000000", "1700000000.5", -EBADMSG, "'created'");
	refuse("1700000000", "9223372036854775807", -EBADMSG, "'created' is out of range");
	refuse("\"stock_kernel\": true", "\"stock_kernel\": 1", -EBADMSG, "neither true nor");
	refuse("\"ext4\"", "\"zfs\"", -EBADMSG, "'root_format'");
	refuse("\"ext4\"", "4", -EBADMSG, "'root_format' is no text");
	refuse("6.12.1-test", "6.12.1\\u0007", -EBADMSG, "control character");
	refuse("6.12.1-test", "6.12.1\\u0000x", -EBADMSG, "");
	refuse("6.12.1-test", "66666666666666666666666666666666666666666666666666666666666666666",
	       -EBADMSG, "'kernel_release' is too long");
	refuse(DIGEST, "0123", -EBADMSG, "no SHA-256");
	refuse(DIGEST, "0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef", -EBADMSG,
	       "no SHA-256");
	refuse("\"kernel\": {", "\"../kernel\": {", -EBADMSG, "unknown name");
	refuse("\"kernel\": {", "\"/etc/shadow\": {", -EBADMSG, "unknown name");
	refuse("\"kernel\": {", "\"\": {", -EBADMSG, "unknown name");
	refuse("\"kernel\": {", "\"manifest.json\": {", -EBADMSG, "unknown name");
	refuse("\"kernel\": {", "\"initrd\": {", -EBADMSG, "neither a kernel nor a state");
	refuse("\"parts\": {", "\"parts\": 3, \"was\": {", -EBADMSG, "'parts' is no object");
	refuse("14125248", "0", -EBADMSG, "'bytes' is 0");
	refuse("14125248", "-5", -EBADMSG, "out of range");
	refuse("14125248", "9007199254740993", -EBADMSG, "out of range");
	refuse("\"file\"", "\"fsdax\"", -EBADMSG, "'where' is missing");
	refuse("\"file\"", "\"fsdax\", \"where\": \"pmem\", \"offset\": 0", -EBADMSG, "is no path");
	refuse("\"file\"", "\"fsdax\", \"where\": \"/pmem\"", -EBADMSG, "'offset' is missing");
	refuse("\"file\"", "\"file\", \"fs_verity\": \"12\"", -EBADMSG, "no SHA-256");
	refuse("\"format\"", "\"parent\": \"../1\", \"format\"", -EBADMSG, "'parent'");
	refuse("\"format\"", "\"parent\": \"1\", \"format\"", -EBADMSG,
	       "'shared_bytes' is missing");
	refuse("\"file\"", "\"tape\"", -EBADMSG, "'media'");
	refuse("sha256_of_data", "sha256", -EBADMSG, "'sha256_of_data' is missing");
	refuse("{", "[", -EBADMSG, "not JSON");
	refuse("{", "", -EBADMSG, "not JSON");
}

static void test_any_cut(void **state)
{
	struct cs_manifest *got = NULL;
	char *text = NULL;
	size_t bytes;

	assert_int_equal(cs_manifest_format(&sample, &text, NULL), 0);
	bytes = strlen(text);
	for (size_t cut = 0; cut < bytes; cut++)
		assert_int_equal(cs_manifest_parse(text, cut, &got, NULL), -EBADMSG);
	assert_null(got);
	free(text);
}

/* Deep nesting must not be answered with a deep stack. */
static void test_deep(void **state)
{
	struct cs_manifest *got = NULL;
	char *text = malloc(200001);

	assert_non_null(text);
	memset(text, '[', 200000);
	assert_int_equal(cs_manifest_parse(text, 200000, &got, NULL), -EBADMSG);
	for (int i = 0; i + 4 < 200000; i += 5)
		memcpy(text + i, "{\"a\":", 5);
	assert_int_equal(cs_manifest_parse(text, 200000, &got, NULL), -EBADMSG);
	assert_null(got);
	free(text);
}

static void test_command_line(void **state)
{
	struct cs_manifest odd = sample;
	struct cs_err err = { 0 };
	char *text = NULL;

	odd.cmdline = (char *)"bad \xff";
	assert_int_equal(cs_manifest_format(&odd, &text, &err), -EINVAL);
	assert_string_not_equal(err.text, "");
	assert_null(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_there_and_back, scratch_make, scratch_remove),
		cmocka_unit_test(test_saved),
		cmocka_unit_test(test_merges),
		cmocka_unit_test_setup_teardown(test_unwritable, scratch_make, scratch_remove),
		cmocka_unit_test_setup_teardown(test_missing, scratch_make, scratch_remove),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_any_cut),
		cmocka_unit_test(test_deep),
		cmocka_unit_test(test_command_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

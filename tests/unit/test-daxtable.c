/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table on a DAX device: what is written comes back, a torn one leaves the one before, and
 * nothing that it says is taken on trust. Then a device, played by a file, through store/media.h.
 */
#include <sys/mman.h>

#include "store/daxdev.h"
#include "store/daxtable.h"
#include "store/draft.h"
#include "store/media.h"
#include "store/version.h"
#include "tests/unit/template-fixture.h"

#define DEVICE (64 * CS_MIB)

/* A regular file counts as a device when (play) is set. */
static bool play;
static uint64_t align = 2 * CS_MIB;

int __real_cs_daxdev_info(int fd, uint64_t *ret_bytes, uint64_t *ret_align);
int __wrap_cs_daxdev_info(int fd, uint64_t *ret_bytes, uint64_t *ret_align);

int __wrap_cs_daxdev_info(int fd, uint64_t *ret_bytes, uint64_t *ret_align)
{
	struct stat st;

	if (!play || fstat(fd, &st) < 0)
		return __real_cs_daxdev_info(fd, ret_bytes, ret_align);
	*ret_bytes = (uint64_t)st.st_size;
	*ret_align = align;
	return 0;
}

/* A device that goes away, or is taken by somebody, between two steps: after so many mappings the
 * next one fails with this. */
static int map_error;
static unsigned maps_left;

void *__real_cs_daxdev_map(int fd, uint64_t offset, uint64_t bytes, bool write);
void *__wrap_cs_daxdev_map(int fd, uint64_t offset, uint64_t bytes, bool write);

void *__wrap_cs_daxdev_map(int fd, uint64_t offset, uint64_t bytes, bool write)
{
	if (map_error && maps_left-- == 0) {
		maps_left = 0;
		errno = map_error;
		return NULL;
	}
	return __real_cs_daxdev_map(fd, offset, bytes, write);
}

static unsigned char head[2 * CS_DAX_SLOT_BYTES];

static int parse(struct cs_dax_table *table, unsigned *slot)
{
	struct cs_err err = { 0 };
	int r = cs_dax_table_parse(head, DEVICE, table, slot, &err);

	assert_true(r == 0 || err.text[0]);
	return r;
}

static void enter(struct cs_dax_table *table, const char *name, uint64_t bytes, uint64_t wanted)
{
	struct cs_dax_extent *extent;

	assert_int_equal(cs_dax_table_add(table, DEVICE, bytes, &extent), 0);
	snprintf(extent->owner, sizeof(extent->owner), "0123456789abcdef0123456789abcdef");
	snprintf(extent->name, sizeof(extent->name), "%s", name);
	assert_int_equal(extent->offset, wanted * CS_MIB);
}

static void test_table(void **state)
{
	struct cs_dax_table table = { 0 }, back;
	struct cs_dax_extent *extent;
	unsigned slot = 9;

	memset(head, 0, sizeof(head));
	assert_int_equal(parse(&back, &slot), -ENODATA);
	enter(&table, "a@1.root", 5 * CS_MIB, 2);
	enter(&table, "b@1.root", 2 * CS_MIB, 8);
	enter(&table, "c@1.root", 1, 10);
	cs_dax_table_drop(&table, 1);
	enter(&table, "d@1.root", 3 * CS_MIB, 12); /* the gap is too small */
	enter(&table, "e@1.root", 2 * CS_MIB, 8);
	assert_int_equal(cs_dax_table_add(&table, DEVICE, 49 * CS_MIB, &extent), -ENOSPC);
	assert_int_equal(cs_dax_table_add(&table, DEVICE, UINT64_MAX, &extent), -ENOSPC);
	enter(&table, "f@1.root", 48 * CS_MIB, 16);
	table.sequence = 7;
	cs_dax_table_format(&table, DEVICE, head);
	assert_int_equal(parse(&back, &slot), 0);
	assert_int_equal(slot, 0);
	assert_int_equal(back.n, 5);
	for (size_t i = 0; i < back.n; i++) {
		assert_string_equal(back.extent[i].name, table.extent[i].name);
		assert_int_equal(back.extent[i].offset, table.extent[i].offset);
		assert_int_equal(back.extent[i].bytes, table.extent[i].bytes);
	}
	assert_string_equal(cs_dax_table_find(&back, 8 * CS_MIB)->name, "e@1.root");
	assert_null(cs_dax_table_find(&back, 6 * CS_MIB));

	/* the newer one counts; torn at any place, the one before */
	cs_dax_table_drop(&table, 0);
	table.sequence = 8;
	cs_dax_table_format(&table, DEVICE, head + CS_DAX_SLOT_BYTES);
	assert_int_equal(parse(&back, &slot), 0);
	assert_int_equal(slot, 1);
	assert_int_equal(back.n, 4);
	for (size_t at = 0; at < 96 + 4 * 208; at++) {
		head[CS_DAX_SLOT_BYTES + at] ^= 1;
		if (at < 8 || at >= 12) { /* (a newer format is another matter) */
			assert_int_equal(parse(&back, &slot), 0);
			assert_int_equal(slot, 0);
		}
		head[CS_DAX_SLOT_BYTES + at] ^= 1;
	}
	head[0] ^= 1;
	head[CS_DAX_SLOT_BYTES + 20] ^= 1;
	assert_int_equal(parse(&back, &slot), -EBADMSG);
	head[CS_DAX_SLOT_BYTES + 8] = 2;
	assert_int_equal(parse(&back, &slot), -EPROTO);
}

/* Signed right, and wrong all the same. */
static void test_hostile(void **state)
{
	struct cs_dax_table table = { .sequence = 1 }, back;
	unsigned slot;

	memset(head, 0, sizeof(head));
	enter(&table, "a@1.root", 4 * CS_MIB, 2);
	enter(&table, "b@1.root", 4 * CS_MIB, 6);
#define WRONG(change)                                                                              \
	do {                                                                                       \
		struct cs_dax_table kept = table;                                                  \
		change;                                                                            \
		cs_dax_table_format(&table, DEVICE, head);                                         \
		assert_int_equal(parse(&back, &slot), -EBADMSG);                                   \
		table = kept;                                                                      \
	} while (0)
	WRONG(table.extent[1].offset = 4 * CS_MIB);        /* over the one before */
	WRONG(table.extent[0].offset = 0);                 /* over the table */
	WRONG(table.extent[0].offset = 2 * CS_MIB + 4096); /* not on the grain */
	WRONG(table.extent[1].bytes = DEVICE);             /* over the end */
	WRONG(table.extent[1].offset = UINT64_MAX - CS_DAX_GRAIN + 1);
	WRONG(table.extent[1].bytes = UINT64_MAX);
	WRONG(table.extent[1].bytes = 0);
	WRONG(table.extent[0].name[0] = '\0');
	WRONG(table.extent[0].name[2] = '/');
	WRONG(table.extent[0].owner[0] = '\033');
	/* of a larger device: it has been made smaller since */
	cs_dax_table_format(&table, DEVICE + CS_DAX_GRAIN, head);
	assert_int_equal(parse(&back, &slot), -EBADMSG);
	cs_dax_table_format(&table, DEVICE, head);
	assert_int_equal(parse(&back, &slot), 0);
}

/* ---- a device ---- */

static const char *device_of(struct fixture *f)
{
	static char text[400];
	int fd = openat(f->scratch->fd, "dax0.0", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_int_equal(ftruncate(fd, DEVICE), 0);
	close(fd);
	snprintf(text, sizeof(text), "devdax:%s/dax0.0", f->scratch->path);
	play = true;
	align = 2 * CS_MIB;
	return text;
}

static void add_on(struct fixture *f, const char *name, const char *media)
{
	struct cs_template_spec spec = spec_of(f);

	spec.name = name;
	spec.media = media;
	if (cs_template_add(f->store, &spec, NULL, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

static void check(struct fixture *f, const char *name, uint64_t wanted_mib)
{
	struct cs_template *t = open_one(f, name);
	struct cs_view view;
	unsigned char *at;

	if (!t)
		fail_msg("%s", f->err.text);
	assert_int_equal(cs_template_view(t, CS_PART_ROOT, &view, NULL), 0);
	assert_int_equal(view.media, CS_MEDIA_DEVDAX);
	assert_int_equal(view.offset, wanted_mib * CS_MIB);
	at = cs_daxdev_map(view.fd, view.offset, CS_DAX_GRAIN, false);
	assert_non_null(at);
	assert_memory_equal(at + 1024, "\xe2\xe1\xf5\xe0", 4); /* as EROFS begins */
	munmap(at, CS_DAX_GRAIN);
	assert_int_equal(cs_template_verify(t, NULL, &f->err), 0);
	if (cs_template_scrub(f->store, t, true, NULL, &f->err) < 0)
		fail_msg("%s", f->err.text);
	cs_template_free(t);
}

static int nobody(void *arg, const char *name, const char *version, char guest[64],
		  struct cs_err *err)
{
	return 0;
}

static void test_device(void **state)
{
	struct fixture *f = *state;
	const struct cs_template_user user = { nobody, NULL };
	const char *media = device_of(f);
	struct cs_template_added added;

	add_on(f, "web", media);
	add_on(f, "db", media);
	check(f, "web", 2);
	check(f, "db", 4);
	assert_int_equal(cs_template_remove(f->store, "web", NULL, NULL), 0);
	add_on(f, "next", media); /* in the room of it */
	check(f, "next", 2);
	if (cs_template_move(f->store, "db", "file", &user, &added, &f->err) < 0)
		fail_msg("%s", f->err.text);
	if (cs_template_move(f->store, "db", media, &user, &added, &f->err) < 0)
		fail_msg("%s", f->err.text);
	check(f, "db", 4);
	check(f, "next", 2);
	assert_int_equal(fixture_dot_names(f), 0);
}

/* One device, by two names: what lies there is not deleted over the other. */
static void test_spelled(void **state)
{
	struct fixture *f = *state;
	const char *media = device_of(f);
	char text[500];

	add_on(f, "web", media);
	snprintf(text, sizeof(text), "devdax:%s/./dax0.0", f->scratch->path);
	add_on(f, "db", text);
	assert_int_equal(symlinkat("dax0.0", f->scratch->fd, "link"), 0);
	snprintf(text, sizeof(text), "devdax:%s/link", f->scratch->path);
	add_on(f, "mail", text);
	check(f, "web", 2);
	check(f, "db", 4);
	check(f, "mail", 6);
	assert_int_equal(cs_template_remove(f->store, "db", NULL, NULL), 0);
	add_on(f, "next", media);
	check(f, "next", 4);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	const char *media = device_of(f);
	struct cs_template_spec spec = spec_of(f);
	int fd = openat(f->scratch->fd, "dax0.0", O_RDWR | O_CLOEXEC);

	spec.media = media;
	play = false;
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), -ENOTTY);
	assert_non_null(strstr(f->err.text, "no DAX device"));
	play = true;
	align = CS_GIB;
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), -EINVAL);
	align = 4096;
	assert_int_equal(pwrite(fd, "somebody's", 10, 5000), 10);
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), -EEXIST);
	assert_non_null(strstr(f->err.text, "holds something else"));
	assert_int_equal(ftruncate(fd, 2 * CS_MIB), 0);
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), -ENOSPC);
	assert_non_null(strstr(f->err.text, "too small"));
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(ftruncate(fd, 4 * CS_MIB), 0);
	add_on(f, "web", media);
	check(f, "web", 2);
	spec = spec_of(f);
	spec.name = "more";
	spec.media = device_of(f); /* is larger again: as it was made, it is full */
	assert_int_equal(ftruncate(fd, 4 * CS_MIB), 0);
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), -ENOSPC);
	assert_int_equal(fixture_dot_names(f), 0);

	/* gone, and with another's table */
	assert_int_equal(pwrite(fd, "x", 1, 100), 1);
	assert_int_equal(pwrite(fd, "x", 1, CS_DAX_SLOT_BYTES + 100), 1);
	assert_null(open_one(f, "web"));
	assert_int_equal(renameat(f->scratch->fd, "dax0.0", f->scratch->fd, "dax1.0"), 0);
	assert_null(open_one(f, "web"));
	assert_int_equal(f->err.code, ENODEV);
	assert_int_equal(cs_template_remove(f->store, "web", NULL, NULL), 0);
	close(fd);
}

/* It vanishes, or is busy, at each step of what is done with it: that is said, nothing is left
 * half-made, and when it is there again everything is. */
static void test_vanishes(void **state)
{
	static const int errors[] = { ENXIO, EBUSY, ENODEV };
	struct fixture *f = *state;
	const struct cs_template_user user = { nobody, NULL };
	const char *media = device_of(f);
	struct cs_template_spec spec;
	struct cs_template_added added;
	unsigned refused = 0;
	int r = -1;

	add_on(f, "web", media);
	for (unsigned at = 0; at < 8; at++) {
		map_error = errors[at % 3];
		maps_left = at;
		spec = spec_of(f);
		spec.name = "db";
		spec.media = media;
		r = cs_template_add(f->store, &spec, NULL, &f->err);
		map_error = 0;
		if (r == 0)
			break;
		refused++;
		assert_int_equal(r, -errors[at % 3]);
		assert_non_null(strstr(f->err.text, "cannot be mapped"));
		assert_int_equal(fixture_dot_names(f), 0);
		assert_null(open_one(f, "db"));
		check(f, "web", 2);
	}
	assert_true(refused >= 2);
	if (r < 0)
		fail_msg("%s", f->err.text);
	check(f, "db", 4);

	for (unsigned at = 0; at < 8; at++) {
		map_error = errors[at % 3];
		maps_left = at;
		r = cs_template_move(f->store, "db", "file", &user, &added, &f->err);
		map_error = 0;
		if (r == 0)
			break;
		assert_int_equal(r, -errors[at % 3]);
		assert_int_equal(fixture_dot_names(f), 0);
		check(f, "db", 4);
	}
	assert_int_equal(r, 0);
	check(f, "web", 2);
}

/* A device whose contents cannot be looked at is no damage of the template: it is not quarantined.
 */
static void test_unreadable(void **state)
{
	struct fixture *f = *state;
	struct cs_template *t;

	add_on(f, "web", device_of(f));
	t = open_one(f, "web");
	assert_non_null(t);
	map_error = ENXIO;
	maps_left = 0;
	assert_int_equal(cs_template_scrub(f->store, t, true, NULL, &f->err), -ENXIO);
	map_error = 0;
	cs_template_free(t);
	check(f, "web", 2);
}

/* Something else in the place of the device: refused before it is opened, which could take for
 * ever.
 */
static void test_no_device(void **state)
{
	struct fixture *f = *state;

	add_on(f, "web", device_of(f));
	assert_int_equal(unlinkat(f->scratch->fd, "dax0.0", 0), 0);
	assert_int_equal(mkfifoat(f->scratch->fd, "dax0.0", 0600), 0);
	alarm(20);
	assert_null(open_one(f, "web"));
	alarm(0);
	assert_int_equal(f->err.code, ENOTTY);
	assert_non_null(strstr(f->err.text, "no DAX device"));
	assert_int_equal(cs_template_remove(f->store, "web", NULL, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test_setup_teardown(test_device, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_spelled, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_no_device, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_vanishes, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_unreadable, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_refused, fixture_in_folder, fixture_remove),
	};

	return cmocka_run_group_tests_name("daxtable", tests, NULL, NULL);
}

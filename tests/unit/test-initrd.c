/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Modules for a distribution's kernel: found, put in order, packed. */
#include <errno.h>

#include "store/base/num.h"
#include "store/initrd.h"
#include "tests/unit/scratch.h"

static const char dep[] =
	"kernel/drivers/virtio/virtio_mmio.ko:\n"
	"kernel/drivers/nvdimm/virtio_pmem.ko: kernel/drivers/nvdimm/nd_virtio.ko "
	"kernel/drivers/nvdimm/libnvdimm.ko\n"
	"kernel/drivers/nvdimm/libnvdimm.ko:\n"
	"kernel/drivers/nvdimm/nd_virtio.ko: kernel/drivers/nvdimm/libnvdimm.ko\n"
	"kernel/drivers/nvdimm/nd_pmem.ko: kernel/drivers/nvdimm/libnvdimm.ko\n"
	"kernel/fs/erofs/erofs.ko:\n"
	"kernel/fs/overlayfs/overlay.ko:\n"
	"kernel/drivers/block/virtio_blk.ko:\n"
	"kernel/drivers/char/hw_random/virtio-rng.ko:\n"
	"kernel/sound/never.ko:\n"
	"kernel/drivers/virtio/virtio_balloon.ko:\n"
	"kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko:\n";

static const char builtin[] = "kernel/fs/ext4/ext4.ko\nkernel/drivers/char/virtio_console.ko\n";

static const char order[] = "virtio_mmio.ko\nlibnvdimm.ko\nnd_virtio.ko\nvirtio_pmem.ko\n"
			    "nd_pmem.ko\nerofs.ko\noverlay.ko\nvirtio_blk.ko\nvirtio-rng.ko\n"
			    "vmw_vsock_virtio_transport.ko\nvirtio_balloon.ko\n";

struct fixture {
	void *scratch_state;
	struct scratch *scratch;
	char modules[400], agent[400], kernel[400];
	struct cs_initrd_spec spec;
	struct cs_err err;
	char *out;
	size_t out_bytes;
};

static void write_path(struct fixture *f, const char *path, const char *text)
{
	char folder[512];

	snprintf(folder, sizeof(folder), "%s", path);
	*strrchr(folder, '/') = '\0';
	assert_int_equal(cs_mkdir_path(f->scratch->fd, folder, 0755), 0);
	scratch_write(f->scratch->fd, path, text);
}

/* All modules that modules.dep names; each holds its own name. */
static void write_modules(struct fixture *f, const char *folder)
{
	const char *line = dep;
	char path[512], text[512];

	while (*line) {
		size_t bytes = strcspn(line, ":");

		snprintf(path, sizeof(path), "%s/%.*s", folder, (int)bytes, line);
		snprintf(text, sizeof(text), "\177ELF %.*s", (int)bytes, line);
		write_path(f, path, text);
		line = strchr(line, '\n') + 1;
	}
	snprintf(path, sizeof(path), "%s/modules.dep", folder);
	write_path(f, path, dep);
	snprintf(path, sizeof(path), "%s/modules.builtin", folder);
	write_path(f, path, builtin);
}

static int make(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	scratch_make(&f->scratch_state);
	f->scratch = f->scratch_state;
	snprintf(f->modules, sizeof(f->modules), "%s/m", f->scratch->path);
	snprintf(f->agent, sizeof(f->agent), "%s/agent", f->scratch->path);
	snprintf(f->kernel, sizeof(f->kernel), "%s/boot/vmlinuz", f->scratch->path);
	scratch_write(f->scratch->fd, "agent", "the agent itself");
	f->spec = (struct cs_initrd_spec){
		.release = "6.1-test",
		.kernel = f->kernel,
		.modules = f->modules,
		.agent = f->agent,
	};
	*state = f;
	return 0;
}

static int unmake(void **state)
{
	struct fixture *f = *state;

	free(f->out);
	scratch_remove(&f->scratch_state);
	free(f);
	return 0;
}

static int pack(struct fixture *f)
{
	int fd = openat(f->scratch->fd, "initrd", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int r;

	assert_true(fd >= 0);
	f->err = (struct cs_err){ 0 };
	r = cs_initrd_make(&f->spec, fd, &f->err);
	close(fd);
	free(f->out);
	f->out = NULL;
	assert_int_equal(cs_read_file_at(f->scratch->fd, "initrd", CS_MIB, &f->out, &f->out_bytes),
			 0);
	return r;
}

static unsigned hex_at(const char *at)
{
	uint64_t value = 0;
	char text[9] = "";

	memcpy(text, at, 8);
	assert_int_equal(cs_parse_hex(text, UINT32_MAX, &value), 0);
	return (unsigned)value;
}

/* Contents of (name) in the cpio, NULL: it is not there. By the format's own description
 * (Linux Documentation/driver-api/early-userspace/buffer-format.rst). */
static char *unpack(const struct fixture *f, const char *name, unsigned *ret_mode)
{
	size_t at = 0;

	while (at + 110 <= f->out_bytes) {
		const char *head = f->out + at;
		unsigned bytes = hex_at(head + 54), name_bytes = hex_at(head + 94);
		size_t data = cs_align_up(at + 110 + name_bytes, 4);

		assert_memory_equal(head, "070701", 6);
		assert_true(data + bytes <= f->out_bytes);
		assert_int_equal(hex_at(head + 22), 0); /* uid */
		assert_int_equal(hex_at(head + 46), 0); /* time */
		if (!strcmp(head + 110, "TRAILER!!!"))
			return NULL;
		if (!strcmp(head + 110, name)) {
			if (ret_mode)
				*ret_mode = hex_at(head + 14);
			return strndup(f->out + data, bytes);
		}
		at = cs_align_up(data + bytes, 4);
	}
	fail_msg("the cpio has no end");
	return NULL;
}

static void expect(const struct fixture *f, const char *name, const char *text)
{
	unsigned mode = 0;
	char *got = unpack(f, name, &mode);

	if (!got)
		fail_msg("no '%s' in it", name);
	assert_string_equal(got, text);
	assert_int_equal(mode, strcmp(name, "init") ? S_IFREG | 0644 : S_IFREG | 0755);
	free(got);
}

static void test_order(void **state)
{
	struct fixture *f = *state;
	unsigned mode = 0;
	char *folder;

	write_modules(f, "m");
	if (pack(f) < 0)
		fail_msg("%s", f->err.text);
	expect(f, "init", "the agent itself");
	expect(f, "modules/order", order);
	expect(f, "modules/virtio-rng.ko", "\177ELF kernel/drivers/char/hw_random/virtio-rng.ko");
	assert_null(unpack(f, "modules/never.ko", NULL));
	folder = unpack(f, "root", &mode);
	assert_non_null(folder);
	assert_int_equal(mode, S_IFDIR | 0755);
	free(folder);
}

/* Beside the kernel, as in an unpacked package. */
static void test_beside_the_kernel(void **state)
{
	struct fixture *f = *state;

	f->spec.modules = NULL;
	assert_int_equal(pack(f), -ENOENT);
	assert_non_null(strstr(f->err.text, "--modules"));
	assert_int_equal(mkdirat(f->scratch->fd, "boot", 0700), 0);
	write_modules(f, "lib/modules/6.1-test");
	if (pack(f) < 0)
		fail_msg("%s", f->err.text);
	expect(f, "modules/order", order);
}

static void add_to_tree(struct cs_tree *tree, struct cs_image *image, const char *path,
			const char *text)
{
	const struct cs_attr attr = { .mode = S_IFREG | 0644 };
	const struct cs_tree_item item = { .path = path, .attr = &attr };
	struct cs_node *node;

	assert_int_equal(cs_tree_add(tree, &item, &node, NULL), 0);
	assert_int_equal(cs_image_file_begin(image, node, strlen(text), NULL), 0);
	assert_int_equal(cs_image_file_data(image, 0, text, strlen(text), NULL), 0);
	assert_int_equal(cs_image_file_end(image, NULL), 0);
}

/* In the root that is being imported, through a link as a merged /usr has it. */
static void test_in_the_root(void **state)
{
	static const struct cs_attr attr = { .mode = S_IFLNK | 0777 };
	static const struct cs_tree_item link = { "lib", "usr/lib", &attr };
	struct fixture *f = *state;
	const char *line = dep;
	struct cs_tree *tree;
	struct cs_image *image;
	struct cs_node *node;
	char path[512];
	int fd = openat(f->scratch->fd, "image", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_int_equal(cs_tree_open(&tree, NULL), 0);
	assert_int_equal(cs_image_open(fd, 4096, CS_GIB, &image, NULL), 0);
	assert_int_equal(cs_tree_add(tree, &link, &node, NULL), 0);
	for (; *line; line = strchr(line, '\n') + 1) {
		snprintf(path, sizeof(path), "lib/modules/6.1-test/%.*s", (int)strcspn(line, ":"),
			 line);
		add_to_tree(tree, image, path, "\177ELF in the root");
	}
	add_to_tree(tree, image, "usr/lib/modules/6.1-test/modules.dep", dep);
	add_to_tree(tree, image, "usr/lib/modules/6.1-test/modules.builtin", builtin);
	f->spec.modules = NULL;
	f->spec.tree = tree;
	f->spec.image = image;
	if (pack(f) < 0)
		fail_msg("%s", f->err.text);
	expect(f, "modules/order", order);
	expect(f, "modules/erofs.ko", "\177ELF in the root");
	cs_image_free(image);
	cs_tree_free(tree);
	close(fd);
}

static void refused(struct fixture *f, int code, const char *words)
{
	int r = pack(f);

	if (r != code || !strstr(f->err.text, words) || strchr(f->err.text, '\n'))
		fail_msg("wanted %d '%s', got %d '%s'", code, words, r, f->err.text);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;

	refused(f, -ENOENT, "modules '");
	write_modules(f, "m");
	assert_int_equal(unlinkat(f->scratch->fd, "m/modules.dep", 0), 0);
	refused(f, -ENOENT, "no modules.dep in it (depmod makes it)");
	write_path(f, "m/modules.dep", "");
	refused(f, -ENOENT, "no module 'virtio_mmio', nor is it built in");
	write_path(f, "m/modules.dep", dep);
	assert_int_equal(unlinkat(f->scratch->fd, "m/kernel/fs/erofs/erofs.ko", 0), 0);
	refused(f, -ENOENT, "erofs.ko");
	/* a link out of the folder is not followed */
	assert_int_equal(symlinkat(f->agent, f->scratch->fd, "m/kernel/fs/erofs/erofs.ko"), 0);
	refused(f, -ENOENT, "erofs.ko");
	assert_int_equal(unlinkat(f->scratch->fd, "m/kernel/fs/erofs/erofs.ko", 0), 0);
	write_path(f, "m/kernel/fs/erofs/erofs.ko", "no ELF");
	refused(f, -EINVAL, "no module");
	write_path(f, "m/kernel/fs/erofs/erofs.ko", "");
	refused(f, -EINVAL, "erofs.ko");
	write_path(f, "m/kernel/fs/erofs/erofs.ko",
		   "\xfd"
		   "7zXZ garbage");
	refused(f, -EINVAL, "erofs.ko");
	write_modules(f, "m");
	f->spec.agent = "/nonexistent/agent";
	refused(f, -ENOENT, "agent '/nonexistent/agent'");
}

/* A list that is anything: ends, with words. */
static void test_odd_lists(void **state)
{
	static const char *const odd[] = {
		"::::\n\n\n :\n",
		"virtio_mmio.ko",
		"virtio_mmio.ko: virtio_mmio.ko",
		"virtio_mmio.ko:    \n",
		"../../virtio_mmio.ko:\n",
		"/etc/passwd/virtio_mmio.ko:\n",
		"virtio_mmio.ko: a b c d e f g h i j k l m n o p q r s t u v w x y z 1 2 3 4 5 6 7 "
		"8 "
		"9 0 A B C D E F G H I J K L M N O P Q R S T U V W X Y Z 11 12 13 14 15 16\n",
	};
	struct fixture *f = *state;

	write_modules(f, "m");
	for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		write_path(f, "m/modules.dep", odd[i]);
		assert_true(pack(f) < 0);
		assert_string_not_equal(f->err.text, "");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_order, make, unmake),
		cmocka_unit_test_setup_teardown(test_beside_the_kernel, make, unmake),
		cmocka_unit_test_setup_teardown(test_in_the_root, make, unmake),
		cmocka_unit_test_setup_teardown(test_refused, make, unmake),
		cmocka_unit_test_setup_teardown(test_odd_lists, make, unmake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

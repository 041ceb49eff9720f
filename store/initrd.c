/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/initrd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/archive.h"
#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define INDEX_MAX  (16 * CS_MIB) /* modules.dep of a full Debian kernel: 0.6 MiB */
#define MODULE_MAX (64 * CS_MIB)
#define ORDER_MAX  64
#define NAME_ROOM  64 /* MODULE_NAME_LEN is 56 */

/* What a guest needs, in load order; what these need in turn is in modules.dep. */
static const struct wanted {
	const char *name;
	bool must; /* be a module or built in; otherwise it is taken where there is one */
} wanted[] = {
	{ "crc32c_generic", false }, /* libcrc32c asks for it by algorithm, not by symbol */
	{ "virtio_mmio", true },     /* the bus of all devices */
	{ "virtio_console", false }, { "virtio_pmem", true },
	{ "nd_pmem", true }, /* the root */
	{ "erofs", true },           { "ext4", true },
	{ "overlay", true },         { "virtio_blk", true }, /* the disk of a guest that persists */
	{ "virtio_rng", false },     { "vmw_vsock_virtio_transport", true }, /* exec */
	{ "virtio_balloon", false }, /* gives back what is free */
};

/* A folder of modules: on this host, or in the root that is being imported. */
struct source {
	int dirfd; /* -1: in the tree */
	struct cs_tree *tree;
	struct cs_image *image;
	char path[PATH_MAX];
	char *dep, *builtin; /* modules.dep, modules.builtin */
};

struct order {
	char path[ORDER_MAX][256]; /* in the folder */
	size_t n;
};

static void source_release(struct source *source)
{
	cs_fd_closep(&source->dirfd);
	free(source->dep);
	free(source->builtin);
}

/* ---- files of the source ---- */

/* A copy in memory of a file in the tree. */
static int open_in_tree(const struct source *source, const char *path, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	cs_auto(cs_mem_freep) void *data = NULL;
	const struct cs_node *node = cs_tree_find(source->tree, path);
	int r;

	if (!node || !S_ISREG(node->attr.mode))
		return -ENOENT;
	if (node->bytes > MODULE_MAX)
		return -EFBIG;
	data = malloc(node->bytes + 1);
	fd = memfd_create("module", MFD_CLOEXEC);
	if (!data || fd < 0)
		return -ENOMEM;
	r = cs_image_read(source->image, node, 0, data, node->bytes, err);
	if (r == 0)
		r = cs_pwrite_full(fd, data, node->bytes, 0);
	return r < 0 ? r : cs_steal_fd(&fd);
}

/* Open (name) in the folder; links lead nowhere out of it. -errno. */
static int open_file(const struct source *source, const char *name, struct cs_err *err)
{
	struct open_how how = { .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
				.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	char path[PATH_MAX + 260];
	int fd;

	if (source->dirfd < 0) {
		snprintf(path, sizeof(path), "%s/%s", source->path, name);
		return open_in_tree(source, path, err);
	}
	fd = (int)syscall(SYS_openat2, source->dirfd, name, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

static int read_index(const struct source *source, const char *name, char **ret, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = open_file(source, name, err);
	cs_auto(cs_mem_freep) char *text = NULL;
	struct stat st;
	int r;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size > INDEX_MAX)
		return -EINVAL;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	r = cs_pread_full(fd, text, (size_t)st.st_size, 0);
	if (r < 0)
		return r;
	text[st.st_size] = '\0';
	*ret = cs_steal(text);
	return 0;
}

/* Is there a folder of modules at (path)? Then it is the source. */
static bool try_folder(struct source *source, const char *path, bool in_tree)
{
	const struct cs_node *node;

	if (in_tree) {
		node = source->tree ? cs_tree_find(source->tree, path) : NULL;
		if (!node || !S_ISDIR(node->attr.mode))
			return false;
	} else {
		source->dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (source->dirfd < 0)
			return false;
	}
	snprintf(source->path, sizeof(source->path), "%s", path);
	return true;
}

static int find_source(const struct cs_initrd_spec *spec, struct source *ret, struct cs_err *err)
{
	char path[PATH_MAX];
	const char *slash = strrchr(spec->kernel, '/');
	int folder = slash ? (int)(slash - spec->kernel) : 1;
	const char *kernel = slash ? spec->kernel : ".";

	if (spec->modules) {
		if (try_folder(ret, spec->modules, false))
			return 0;
		return cs_fail_errno(err, errno, "modules '%s'", spec->modules);
	}
	snprintf(path, sizeof(path), "%.*s/../lib/modules/%s", folder, kernel, spec->release);
	if (try_folder(ret, path, false))
		return 0;
	snprintf(path, sizeof(path), "/lib/modules/%s", spec->release);
	if (try_folder(ret, path, true) || try_folder(ret, path, false))
		return 0;
	return cs_fail(err, ENOENT,
		       "kernel %s is a distribution's and needs modules, but there is no "
		       "lib/modules/%s beside it, in the root or here (give --modules DIR, or "
		       "--modules none when it has all drivers built in)",
		       spec->release, spec->release);
}

/* ---- the order ---- */

/* The module's name in a path: "kernel/drivers/char/hw_random/virtio-rng.ko.xz" -> "virtio_rng". */
static void name_of(const char *path, size_t bytes, char ret[NAME_ROOM])
{
	size_t start = bytes, n = 0;

	while (start && path[start - 1] != '/')
		start--;
	for (; start < bytes && path[start] != '.' && n < NAME_ROOM - 1; start++)
		ret[n++] = path[start] == '-' ? '_' : path[start];
	ret[n] = '\0';
}

/* The line of modules.dep that begins with the path of (name), NULL: it is no module. */
static const char *find_line(const char *dep, const char *name)
{
	char here[NAME_ROOM];

	for (const char *line = dep; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		name_of(line, strcspn(line, ":\n"), here);
		if (!strcmp(here, name))
			return line;
	}
	return NULL;
}

static bool is_builtin(const char *builtin, const char *name)
{
	char here[NAME_ROOM];

	for (const char *line = builtin; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		name_of(line, strcspn(line, "\n"), here);
		if (!strcmp(here, name))
			return true;
	}
	return false;
}

static int push(struct order *order, const char *path, size_t bytes, struct cs_err *err)
{
	for (size_t i = 0; i < order->n; i++) {
		if (strlen(order->path[i]) == bytes && !memcmp(order->path[i], path, bytes))
			return 0;
	}
	if (order->n == ORDER_MAX || !bytes || bytes >= sizeof(order->path[0]))
		return cs_fail(err, EINVAL, "modules.dep: over %d modules, or a path too long",
			       ORDER_MAX);
	memcpy(order->path[order->n], path, bytes);
	order->path[order->n++][bytes] = '\0';
	return 0;
}

/* "path: dep dep ...": all that it needs, what is to be loaded first stands last. */
static int push_line(struct order *order, const char *line, struct cs_err *err)
{
	size_t path = strcspn(line, ":\n"), end = strcspn(line, "\n"), start;
	int r;

	while (end > path + 1) {
		while (end > path + 1 && line[end - 1] == ' ')
			end--;
		for (start = end; start > path + 1 && line[start - 1] != ' ';)
			start--;
		if (start < end) {
			r = push(order, line + start, end - start, err);
			if (r < 0)
				return r;
		}
		end = start;
	}
	return push(order, line, path, err);
}

static int resolve(const struct source *source, struct order *order, struct cs_err *err)
{
	int r;

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		const char *line = find_line(source->dep, wanted[i].name);

		if (line) {
			r = push_line(order, line, err);
			if (r < 0)
				return r;
		} else if (wanted[i].must && !is_builtin(source->builtin, wanted[i].name)) {
			return cs_fail(err, ENOENT,
				       "modules '%s': no module '%s', nor is it built in: this "
				       "kernel cannot run as a guest",
				       source->path, wanted[i].name);
		}
	}
	return 0;
}

/* ---- the archive ---- */

struct blob {
	unsigned char *data;
	size_t bytes, room;
};

static void blob_release(struct blob *blob)
{
	free(blob->data);
}

static int take(void *arg, const void *data, size_t bytes, struct cs_err *err)
{
	struct blob *blob = arg;
	unsigned char *larger;

	if (bytes > blob->room - blob->bytes) {
		blob->room = 2 * (blob->bytes + bytes);
		larger = realloc(blob->data, blob->room);
		if (!larger)
			return cs_fail_errno(err, ENOMEM, "module");
		blob->data = larger;
	}
	memcpy(blob->data + blob->bytes, data, bytes);
	blob->bytes += bytes;
	return 0;
}

/* All of (fd), unpacked. */
static int unpack(int fd, struct blob *ret, struct cs_err *err)
{
	struct cs_archive_stream stream = { .fd = fd, .max_bytes = MODULE_MAX };
	struct stat st;

	if (fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "cannot be read");
	if (!S_ISREG(st.st_mode) || !st.st_size)
		return cs_fail(err, EINVAL, "not a file with anything in it");
	stream.bytes = (uint64_t)st.st_size;
	return cs_archive_unpack(&stream, take, ret, err);
}

/* "kernel/.../virtio-rng.ko.xz" -> "virtio-rng.ko" */
static void file_of(const char *path, char ret[NAME_ROOM + 8])
{
	const char *slash = strrchr(path, '/');
	const char *base = slash ? slash + 1 : path;
	const char *dot = strchrnul(base, '.');

	snprintf(ret, NAME_ROOM + 8, "%.*s.ko", (int)(dot - base), base);
}

static int add_module(struct cs_cpio *cpio, const struct source *source, const char *path,
		      struct blob *list, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = open_file(source, path, err);
	cs_auto(blob_release) struct blob module = { 0 };
	char file[NAME_ROOM + 8], inside[NAME_ROOM + 32];
	int r;

	if (fd < 0)
		return cs_fail_errno(err, -fd, "module '%s/%s'", source->path, path);
	r = unpack(fd, &module, err);
	if (r == 0 && (module.bytes < 4 || memcmp(module.data, "\177ELF", 4)))
		r = cs_fail(err, EINVAL, "no module");
	if (r < 0)
		return cs_fail_in(err, r, "module '%s/%s'", source->path, path);
	file_of(path, file);
	snprintf(inside, sizeof(inside), "modules/%s", file);
	cs_cpio_file(cpio, inside, 0644, module.data, module.bytes);
	r = take(list, file, strlen(file), err);
	return r < 0 ? r : take(list, "\n", 1, err);
}

static int add_agent(struct cs_cpio *cpio, const char *agent, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = open(agent, O_RDONLY | O_CLOEXEC);
	cs_auto(blob_release) struct blob data = { 0 };
	int r;

	if (fd < 0)
		return cs_fail_errno(err, errno, "agent '%s'", agent);
	r = unpack(fd, &data, err);
	if (r < 0)
		return cs_fail_in(err, r, "agent '%s'", agent);
	cs_cpio_file(cpio, "init", 0755, data.data, data.bytes);
	return 0;
}

static int write_cpio(const struct cs_initrd_spec *spec, const struct source *source,
		      const struct order *order, int out_fd, struct cs_err *err)
{
	static const char *const folders[] = { "dev", "proc", "sys", "root", "modules" };
	cs_auto(cs_cpio_freep) struct cs_cpio *cpio = NULL;
	cs_auto(blob_release) struct blob list = { 0 };
	int r;

	r = cs_cpio_open(out_fd, &cpio, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		cs_cpio_folder(cpio, folders[i]);
	r = add_agent(cpio, spec->agent, err);
	for (size_t i = 0; i < order->n && r == 0; i++)
		r = add_module(cpio, source, order->path[i], &list, err);
	if (r < 0)
		return r;
	cs_cpio_file(cpio, "modules/order", 0644, list.data, list.bytes);
	return cs_cpio_finish(cpio, err);
}

int cs_initrd_make(const struct cs_initrd_spec *spec, int out_fd, struct cs_err *err)
{
	cs_auto(source_release) struct source source = { .dirfd = -1,
							 .tree = spec->tree,
							 .image = spec->image };
	cs_auto(cs_mem_freep) struct order *order = calloc(1, sizeof(*order));
	int r;

	if (!order)
		return cs_fail_errno(err, ENOMEM, "initrd");
	r = find_source(spec, &source, err);
	if (r < 0)
		return r;
	r = read_index(&source, "modules.dep", &source.dep, err);
	if (r == -ENOENT)
		return cs_fail(err, ENOENT, "modules '%s': no modules.dep in it (depmod makes it)",
			       source.path);
	if (r == 0)
		r = read_index(&source, "modules.builtin", &source.builtin, err);
	if (r < 0)
		return cs_fail_errno(err, -r, "modules '%s'", source.path);
	r = resolve(&source, order, err);
	return r < 0 ? r : write_cpio(spec, &source, order, out_fd, err);
}

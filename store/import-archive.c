/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/import.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "store/base/num.h"
#include "store/base/text.h"
#include "store/libarchive.h"

#define READ_BYTES (UINT64_C(1) << 20)

/* A Debian has 20, a /dev of MAKEDEV some 2000. */
#define DEVICES_MAX 4096

struct reader {
	struct cs_libarchive la;
	struct cs_import *import;
	struct cs_err *err;
	struct archive *archive;
	struct archive_entry *entry; /* lent by the archive, until the next */
	char name[256];              /* of the entry, for words */
	unsigned devices;
};

static int refuse(struct reader *reader, int code, const char *why)
{
	return cs_fail(reader->err, code, "entry '%s': %s", reader->name, why);
}

/* What libarchive says about the archive, which may repeat bytes of it. */
static int fail_archive(struct reader *reader)
{
	const char *said = reader->la.archive_error_string(reader->archive);
	char words[200];
	int code = EINVAL;

	snprintf(words, sizeof(words), "%s", said ? said : "damaged");
	cs_text_clean(words, false);
	if (strcasestr(words, "truncated") || strcasestr(words, "unexpected end"))
		code = ENODATA;
	if (strcasestr(words, "unrecognized archive format"))
		return cs_fail(reader->err, EINVAL,
			       "not an archive (tar, cpio, zip, 7-Zip or ISO 9660, compressed or "
			       "not)");
	return cs_fail(reader->err, code, "damaged or truncated archive: %s", words);
}

/* Not all that libarchive has: mtree names files of this host as contents, raw takes anything, and
 * some filters run a program that they find in PATH. */
static bool support(const struct reader *reader)
{
	const struct cs_libarchive *la = &reader->la;
	int (*const supported[])(struct archive *) = {
		la->archive_read_support_filter_gzip,     la->archive_read_support_filter_bzip2,
		la->archive_read_support_filter_compress, la->archive_read_support_filter_lzip,
		la->archive_read_support_filter_lzma,     la->archive_read_support_filter_xz,
		la->archive_read_support_filter_lz4,      la->archive_read_support_filter_zstd,
		la->archive_read_support_format_tar,      la->archive_read_support_format_cpio,
		la->archive_read_support_format_zip,      la->archive_read_support_format_7zip,
		la->archive_read_support_format_iso9660,
	};

	for (size_t i = 0; i < sizeof(supported) / sizeof(supported[0]); i++) {
		if (supported[i](reader->archive) < ARCHIVE_WARN)
			return false;
	}
	return true;
}

/* ---- names ---- */

/* Paths stay inside by construction (tree.h). These are refused all the same, since an archive that
 * has them was not made from a root, and a user should hear of it. */
static int check_path(struct reader *reader, const char *path, const char *what)
{
	const char *p = path;

	if (!path || !*path)
		return refuse(reader, EINVAL, "has no name that can be read");
	if (*path == '/')
		return cs_fail(reader->err, EINVAL,
			       "entry '%s': %s is an absolute path (make the archive with paths "
			       "relative to the root)",
			       reader->name, what);
	for (; *p; p += strcspn(p, "/"), p += strspn(p, "/")) {
		if (p[0] == '.' && p[1] == '.' && (p[2] == '/' || !p[2]))
			return cs_fail(reader->err, EINVAL,
				       "entry '%s': %s leads out of the root by '..'", reader->name,
				       what);
	}
	return 0;
}

static void remember_name(struct reader *reader)
{
	const char *path = reader->la.archive_entry_pathname(reader->entry);

	snprintf(reader->name, sizeof(reader->name), "%s", path ? path : "?");
	cs_text_clean(reader->name, false);
}

/* ---- extended attributes and ACLs ---- */

struct acl_row {
	uint16_t tag, perm;
	uint32_t id;
};

/* The kernel's tags, in the order that it wants them. */
static uint16_t acl_tag(int tag)
{
	switch (tag) {
	case ARCHIVE_ENTRY_ACL_USER_OBJ:
		return 0x01;
	case ARCHIVE_ENTRY_ACL_USER:
		return 0x02;
	case ARCHIVE_ENTRY_ACL_GROUP_OBJ:
		return 0x04;
	case ARCHIVE_ENTRY_ACL_GROUP:
		return 0x08;
	case ARCHIVE_ENTRY_ACL_MASK:
		return 0x10;
	case ARCHIVE_ENTRY_ACL_OTHER:
		return 0x20;
	default:
		return 0;
	}
}

static int by_tag(const void *a, const void *b)
{
	const struct acl_row *x = a, *y = b;

	if (x->tag != y->tag)
		return x->tag - y->tag;
	return x->id < y->id ? -1 : x->id > y->id;
}

#define ACL_ROWS_MAX 1024

static size_t read_acl(const struct reader *reader, int type, struct acl_row *rows)
{
	int row_type, permset, tag, id;
	const char *name;
	size_t n = 0;

	while (reader->la.archive_entry_acl_next(reader->entry, type, &row_type, &permset, &tag,
						 &id, &name) == ARCHIVE_OK) {
		bool named = tag == ARCHIVE_ENTRY_ACL_USER || tag == ARCHIVE_ENTRY_ACL_GROUP;

		if (n == ACL_ROWS_MAX)
			return 0;
		/* of a name without a number nothing can be made: it means someone else here */
		if (!acl_tag(tag) || (named && id < 0))
			continue;
		rows[n++] = (struct acl_row){
			.tag = acl_tag(tag),
			.perm = (uint16_t)(permset & 7),
			.id = named ? (uint32_t)id : UINT32_MAX,
		};
	}
	qsort(rows, n, sizeof(*rows), by_tag);
	return n;
}

/* (type) of ACL as the attribute (name), in the kernel's form: version 2, then tag, permissions and
 * id of each row. */
static int take_acl(struct reader *reader, struct cs_node *node, int type, const char *name)
{
	cs_auto(cs_mem_freep) struct acl_row *rows = NULL;
	size_t n;
	int r;

	if (reader->la.archive_entry_acl_reset(reader->entry, type) <= 0)
		return 0;
	/* one row in front has the room for the version */
	rows = calloc(ACL_ROWS_MAX + 1, sizeof(*rows));
	if (!rows)
		return refuse(reader, ENOMEM, "out of memory");
	n = read_acl(reader, type, rows + 1);
	if (!n)
		return 0;
	for (size_t i = 1; i <= n; i++) {
		/* with a mask the group bits of the mode are the mask */
		if (type == ARCHIVE_ENTRY_ACL_TYPE_ACCESS && rows[i].tag == 0x10)
			node->attr.mode = (node->attr.mode & ~070u) | rows[i].perm << 3;
		rows[i].tag = htole16(rows[i].tag);
		rows[i].perm = htole16(rows[i].perm);
		rows[i].id = htole32(rows[i].id);
	}
	rows[0].id = htole32(2);
	r = cs_tree_xattr(node, name, &rows[0].id, sizeof(uint32_t) + n * sizeof(*rows));
	return r < 0 ? refuse(reader, -r, "out of memory") : 0;
}

static int take_xattrs(struct reader *reader, struct cs_node *node)
{
	const char *name;
	const void *value;
	size_t bytes;
	int r;

	reader->la.archive_entry_xattr_reset(reader->entry);
	while (reader->la.archive_entry_xattr_next(reader->entry, &name, &value, &bytes) ==
	       ARCHIVE_OK) {
		r = cs_tree_xattr(node, name, value, bytes);
		if (r < 0)
			return refuse(reader, -r, "out of memory");
	}
	r = take_acl(reader, node, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, "system.posix_acl_access");
	if (r == 0 && S_ISDIR(node->attr.mode))
		r = take_acl(reader, node, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT,
			     "system.posix_acl_default");
	return r;
}

/* ---- contents ---- */

static int take_data(struct reader *reader, struct cs_node *node)
{
	struct cs_import *import = reader->import;
	uint64_t bytes = CS_FILE_UNKNOWN;
	const void *data;
	la_int64_t offset;
	size_t n;
	int r;

	if (reader->la.archive_entry_size_is_set(reader->entry)) {
		if (reader->la.archive_entry_size(reader->entry) < 0)
			return refuse(reader, EINVAL, "its length is negative");
		bytes = (uint64_t)reader->la.archive_entry_size(reader->entry);
		if (!reader->la.archive_entry_sparse_count(reader->entry) && bytes <= CS_FILE_MAX &&
		    bytes > cs_image_room(import->image))
			return refuse(reader, ENOSPC,
				      "is longer than the store has room (remove a template, or "
				      "make room on the disk under the store)");
	}
	r = cs_image_file_begin(import->image, node, bytes, reader->err);
	while (r == 0) {
		r = reader->la.archive_read_data_block(reader->archive, &data, &n, &offset);
		if (r == ARCHIVE_EOF)
			return cs_image_file_end(import->image, reader->err);
		if (r < ARCHIVE_WARN)
			return fail_archive(reader);
		if (offset < 0)
			return refuse(reader, EINVAL, "its data is out of order");
		r = cs_image_file_data(import->image, (uint64_t)offset, data, n, reader->err);
		import->input_bytes += n;
		cs_progress_set(import->progress,
				(uint64_t)reader->la.archive_filter_bytes(reader->archive, -1));
	}
	return cs_fail_in(reader->err, r, "entry '%s'", reader->name);
}

/* ---- entries ---- */

static int take_link(struct reader *reader, const char *path, const char *existing)
{
	struct cs_tree *tree = reader->import->tree;
	struct cs_node *node;
	int r;

	r = check_path(reader, existing, "the file that it is a hard link to");
	if (r == 0)
		r = cs_tree_link(tree, path, existing, reader->err);
	if (r < 0)
		return r;
	/* cpio has the contents of a file of several names with the last of them */
	if (!reader->la.archive_entry_size_is_set(reader->entry) ||
	    reader->la.archive_entry_size(reader->entry) <= 0)
		return 0;
	node = cs_tree_find(tree, existing);
	if (!node || !S_ISREG(node->attr.mode))
		return refuse(reader, EINVAL, "has data, and is a hard link to no file");
	return take_data(reader, node);
}

static int check_attr(struct reader *reader, struct cs_attr *ret)
{
	struct archive_entry *entry = reader->entry;
	la_int64_t uid = reader->la.archive_entry_uid(entry),
		   gid = reader->la.archive_entry_gid(entry);

	if (uid < 0 || gid < 0 || uid >= UINT32_MAX || gid >= UINT32_MAX)
		return refuse(reader, EINVAL, "belongs to a user or group of an impossible number");
	*ret = (struct cs_attr){
		.mode = reader->la.archive_entry_filetype(entry) |
			(reader->la.archive_entry_perm(entry) & 07777),
		.uid = (uid_t)uid,
		.gid = (gid_t)gid,
	};
	if (reader->la.archive_entry_mtime_is_set(entry)) {
		ret->mtime.tv_sec = reader->la.archive_entry_mtime(entry);
		ret->mtime.tv_nsec = reader->la.archive_entry_mtime_nsec(entry);
	}
	if (ret->mtime.tv_nsec < 0 || ret->mtime.tv_nsec > 999999999)
		ret->mtime.tv_nsec = 0;
	if (!S_ISCHR(ret->mode) && !S_ISBLK(ret->mode))
		return 0;
	if (++reader->devices > DEVICES_MAX)
		return cs_fail(reader->err, EMLINK, "entry '%s': over %d device nodes",
			       reader->name, DEVICES_MAX);
	if (reader->la.archive_entry_rdevmajor(entry) > 0xfff ||
	    reader->la.archive_entry_rdevminor(entry) > 0xfffff)
		return refuse(reader, EINVAL, "a device of an impossible number");
	ret->device = makedev((unsigned)reader->la.archive_entry_rdevmajor(entry),
			      (unsigned)reader->la.archive_entry_rdevminor(entry));
	return 0;
}

static int take_entry(struct reader *reader)
{
	const char *path = reader->la.archive_entry_pathname(reader->entry);
	struct cs_tree_item item = { .path = path };
	struct cs_node *node;
	struct cs_attr attr;
	int r;

	r = check_path(reader, path, "its name");
	if (r < 0)
		return r;
	reader->import->files++;
	if (reader->la.archive_entry_hardlink(reader->entry))
		return take_link(reader, path, reader->la.archive_entry_hardlink(reader->entry));

	r = check_attr(reader, &attr);
	if (r < 0)
		return r;
	item.attr = &attr;
	switch (attr.mode & S_IFMT) {
	case S_IFSOCK:
		return 0;
	case S_IFLNK:
		item.target = reader->la.archive_entry_symlink(reader->entry);
		if (!item.target || !*item.target || strlen(item.target) >= PATH_MAX)
			return refuse(reader, EINVAL, "a symbolic link to nowhere");
		break;
	case S_IFREG:
	case S_IFDIR:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
		break;
	default:
		return refuse(reader, EINVAL, "of an unknown kind");
	}
	r = cs_tree_add(reader->import->tree, &item, &node, reader->err);
	if (r == 0)
		r = take_xattrs(reader, node);
	if (r == 0 && S_ISREG(attr.mode))
		r = take_data(reader, node);
	return r;
}

/* A tar ends with a block of zeroes. One that was cut between two entries does not, and libarchive
 * calls that an end like any other. */
static int check_end(struct reader *reader)
{
	int kind = reader->la.archive_format(reader->archive) & ARCHIVE_FORMAT_BASE_MASK;

	if (kind == ARCHIVE_FORMAT_TAR &&
	    reader->la.archive_filter_bytes(reader->archive, 0) <=
		    reader->la.archive_read_header_position(reader->archive))
		return cs_fail(reader->err, ENODATA,
			       "truncated archive: it has no end-of-archive mark behind '%s'",
			       reader->name);
	return 0;
}

static int read_all(struct reader *reader)
{
	int r;

	for (;;) {
		r = reader->la.archive_read_next_header(reader->archive, &reader->entry);
		if (r == ARCHIVE_EOF)
			break;
		if (r == ARCHIVE_RETRY)
			continue;
		if (r < ARCHIVE_WARN)
			return fail_archive(reader);
		remember_name(reader);
		r = take_entry(reader);
		if (r < 0)
			return r;
	}
	if (!reader->import->files)
		return cs_fail(reader->err, EINVAL, "an empty archive");
	return check_end(reader);
}

static int open_and_read(struct reader *reader, int fd)
{
	int r = cs_libarchive_load(&reader->la, reader->err);

	if (r < 0)
		return r;
	reader->archive = reader->la.archive_read_new();
	if (!reader->archive || !support(reader))
		r = cs_fail(reader->err, ENOMEM, "libarchive cannot start");
	else if (reader->la.archive_read_open_fd(reader->archive, fd, READ_BYTES) != ARCHIVE_OK)
		r = fail_archive(reader);
	else
		r = read_all(reader);
	reader->la.archive_read_free(reader->archive);
	return r;
}

int cs_import_archive(struct cs_import *import, const char *path, struct cs_err *err)
{
	struct reader reader = { .import = import, .err = err };
	cs_auto(cs_fd_closep) int fd = -1;
	locale_t utf8, former = (locale_t)0;
	struct stat st;
	int r;

	fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot read");
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return cs_fail(err, EINVAL, "neither a folder nor a file");
	if (!st.st_size)
		return cs_fail(err, EINVAL, "an empty file, not an archive");

	/* pax names are UTF-8; without this libarchive cannot tell them in the C locale */
	utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
	if (utf8)
		former = uselocale(utf8);
	r = open_and_read(&reader, fd);
	if (utf8) {
		uselocale(former);
		freelocale(utf8);
	}
	return r;
}

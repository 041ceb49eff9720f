/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/erofs.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "store/base/io.h"
#include "store/base/num.h"

#define SUPER_OFFSET    1024
#define SUPER_MAGIC     0xe0f5e1e2u
#define COMPAT_CHECKSUM 0x1u
#define COMPAT_MTIME    0x2u
#define INCOMPAT_CHUNKS 0x4u
#define SLOT_BYTES      32 /* an inode's number is its place in units of these */
#define HOLE            UINT32_MAX

/* Inode 0 would be skipped by readdir(3) of some C libraries. */
#define META_SKIP 64

enum layout {
	LAYOUT_PLAIN = 0,  /* blocks in a row */
	LAYOUT_INLINE = 2, /* the last part behind the inode, in the same block */
	LAYOUT_CHUNKS = 4, /* a map of chunks: for files with holes */
};

struct super {
	uint32_t magic, checksum, feature_compat;
	uint8_t block_bits, ext_slots;
	uint16_t root_nid;
	uint64_t inodes, build_time;
	uint32_t build_time_nsec, blocks, meta_block, xattr_block;
	uint8_t uuid[16], volume[16];
	uint32_t feature_incompat;
	uint8_t unused[44];
} __attribute__((packed));

struct inode {
	uint16_t format, xattr_count, mode, unused;
	uint64_t bytes;
	uint32_t where; /* first block, device number, or chunk format */
	uint32_t ino, uid, gid;
	uint64_t mtime;
	uint32_t mtime_nsec, links;
	uint8_t unused2[16];
} __attribute__((packed));

struct on_disk_entry {
	uint64_t nid;
	uint16_t name_offset;
	uint8_t type, unused;
} __attribute__((packed));

_Static_assert(sizeof(struct super) == 128, "superblock of 128 bytes");
_Static_assert(sizeof(struct inode) == 64, "extended inode of 64 bytes");
_Static_assert(sizeof(struct on_disk_entry) == 12, "entry of 12 bytes");

/* What is being written. */
struct writer {
	struct cs_image *image;
	uint64_t meta;                 /* offset of the inodes */
	struct cs_node *first, **last; /* nodes in the order of their inodes */
	uint64_t nodes;
	bool chunks;
};

/* ---- extended attributes ---- */

struct prefix {
	const char *name;
	uint8_t index;
	bool whole;
};

static const struct prefix prefixes[] = {
	{ "user.", 1, false },
	{ "system.posix_acl_access", 2, true },
	{ "system.posix_acl_default", 3, true },
	{ "trusted.", 4, false },
	{ "security.", 6, false },
};

/* The prefix of (name), NULL: of a kind that the format does not know and a guest could not use. */
static const struct prefix *prefix_of(const char *name)
{
	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
		const struct prefix *p = &prefixes[i];

		if (p->whole ? !strcmp(name, p->name) : !strncmp(name, p->name, strlen(p->name)))
			return p;
	}
	return NULL;
}

static uint64_t xattr_bytes(const struct cs_node *node)
{
	uint64_t bytes = 0;

	for (const struct cs_xattr *x = node->xattrs; x; x = x->next) {
		const struct prefix *p = prefix_of(x->name);

		if (p)
			bytes += cs_align_up(4 + strlen(x->name) - strlen(p->name) + x->bytes, 4);
	}
	return bytes ? 12 + bytes : 0;
}

static int check_xattrs(const struct cs_node *node, struct cs_err *err)
{
	for (const struct cs_xattr *x = node->xattrs; x; x = x->next) {
		const struct prefix *p = prefix_of(x->name);

		if (p && (strlen(x->name) - strlen(p->name) > UINT8_MAX || x->bytes > UINT16_MAX))
			return cs_fail(err, E2BIG,
				       "extended attribute '%.80s' of %zu bytes: over 64 KiB",
				       x->name, x->bytes);
	}
	if (xattr_bytes(node) > 12 + 4 * (UINT64_C(65535) - 1))
		return cs_fail(err, E2BIG, "a file with over 256 KiB of extended attributes");
	return 0;
}

static int write_xattrs(struct writer *w, const struct cs_node *node, struct cs_err *err)
{
	static const uint8_t head[12];
	int r;

	if (!xattr_bytes(node))
		return 0;
	r = cs_image_append(w->image, head, sizeof(head), err);
	for (const struct cs_xattr *x = node->xattrs; x && r == 0; x = x->next) {
		const struct prefix *p = prefix_of(x->name);
		const char *name = p ? x->name + strlen(p->name) : NULL;
		uint8_t entry[4];

		if (!p)
			continue;
		entry[0] = (uint8_t)strlen(name);
		entry[1] = p->index;
		entry[2] = (uint8_t)x->bytes;
		entry[3] = (uint8_t)(x->bytes >> 8);
		r = cs_image_append(w->image, entry, sizeof(entry), err);
		if (r == 0)
			r = cs_image_append(w->image, name, strlen(name), err);
		if (r == 0)
			r = cs_image_append(w->image, x->value, x->bytes, err);
		if (r == 0)
			r = cs_image_pad(w->image, 4, err);
	}
	return r;
}

/* ---- folders ---- */

struct listing {
	struct row {
		const char *name;
		const struct cs_node *node;
	} * row;
	size_t n;
};

static void listing_freep(struct listing *listing)
{
	free(listing->row);
}

static int add_row(const struct cs_entry *entry, void *arg)
{
	struct listing *listing = arg;

	listing->row[listing->n++] = (struct row){ entry->name, entry->node };
	return 0;
}

static int by_bytes(const void *a, const void *b)
{
	return strcmp(((const struct row *)a)->name, ((const struct row *)b)->name);
}

/* All rows of (dir), "." and ".." among them, in the order that lookups search by. */
static int list(const struct cs_node *dir, struct listing *ret, struct cs_err *err)
{
	ret->row = calloc(dir->entry_count + 2, sizeof(*ret->row));
	if (!ret->row)
		return cs_fail_errno(err, ENOMEM, "folder");
	ret->row[0] = (struct row){ ".", dir };
	ret->row[1] = (struct row){ "..", dir->parent };
	ret->n = 2;
	cs_tree_entries(dir, add_row, ret);
	qsort(ret->row, ret->n, sizeof(*ret->row), by_bytes);
	return 0;
}

/* How many rows from (first) on go into one block; *ret_bytes: what they take of it. */
static size_t fit_block(const struct listing *listing, size_t first, uint64_t *ret_bytes)
{
	uint64_t bytes = 0;
	size_t n;

	for (n = first; n < listing->n; n++) {
		uint64_t more = sizeof(struct on_disk_entry) + strlen(listing->row[n].name);

		if (bytes + more > CS_IMAGE_BLOCK)
			break;
		bytes += more;
	}
	*ret_bytes = bytes;
	return n - first;
}

static int measure_dir(struct cs_node *dir, struct cs_err *err)
{
	cs_auto(listing_freep) struct listing listing = { 0 };
	uint64_t used = 0, blocks = 0;
	int r;

	r = list(dir, &listing, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < listing.n; blocks++)
		i += fit_block(&listing, i, &used);
	dir->data_bytes = (blocks - 1) * CS_IMAGE_BLOCK + used;
	return 0;
}

static uint8_t type_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return 1;
	case S_IFDIR:
		return 2;
	case S_IFCHR:
		return 3;
	case S_IFBLK:
		return 4;
	case S_IFIFO:
		return 5;
	case S_IFSOCK:
		return 6;
	default:
		return 7; /* symbolic link */
	}
}

static int write_block(struct writer *w, const struct listing *listing, size_t first, size_t n,
		       struct cs_err *err)
{
	uint8_t block[CS_IMAGE_BLOCK];
	size_t name = n * sizeof(struct on_disk_entry);

	for (size_t i = 0; i < n; i++) {
		const struct row *row = &listing->row[first + i];
		struct on_disk_entry entry = {
			.nid = htole64(row->node->nid),
			.name_offset = htole16((uint16_t)name),
			.type = type_of(row->node->attr.mode),
		};

		memcpy(block + i * sizeof(entry), &entry, sizeof(entry));
		memcpy(block + name, row->name, strlen(row->name));
		name += strlen(row->name);
	}
	return cs_image_append(w->image, block, name, err);
}

static int write_dir(struct writer *w, const struct cs_node *dir, struct cs_err *err)
{
	cs_auto(listing_freep) struct listing listing = { 0 };
	uint64_t used;
	size_t n;
	int r;

	r = list(dir, &listing, err);
	for (size_t i = 0; i < listing.n && r == 0; i += n) {
		n = fit_block(&listing, i, &used);
		r = write_block(w, &listing, i, n, err);
		if (r == 0 && i + n < listing.n)
			r = cs_image_zero(w->image, CS_IMAGE_BLOCK - used, err);
	}
	return r;
}

/* ---- inodes ---- */

static enum layout layout_of(const struct cs_node *node)
{
	const struct cs_extent *extent = node->extents;

	if (S_ISDIR(node->attr.mode) || S_ISLNK(node->attr.mode)) {
		uint64_t all = sizeof(struct inode) + xattr_bytes(node) + node->data_bytes;

		return all <= CS_IMAGE_BLOCK ? LAYOUT_INLINE : LAYOUT_PLAIN;
	}
	if (!S_ISREG(node->attr.mode) || node->bytes == 0)
		return LAYOUT_PLAIN;
	if (node->extent_count == 1 && extent->file_block == 0 &&
	    extent->blocks * CS_IMAGE_BLOCK >= node->bytes)
		return LAYOUT_PLAIN;
	return LAYOUT_CHUNKS;
}

static uint64_t chunk_count(const struct cs_node *node)
{
	uint64_t chunk = UINT64_C(1) << node->chunk_bits;

	return cs_align_up(node->bytes, chunk) / chunk;
}

/* Give (node) its place at or after *at in the inode area, and move *at behind it. */
static int place(struct writer *w, struct cs_node *node, uint64_t *at, struct cs_err *err)
{
	enum layout layout;
	uint64_t bytes;
	int r;

	r = check_xattrs(node, err);
	if (r == 0 && S_ISDIR(node->attr.mode))
		r = measure_dir(node, err);
	if (r < 0)
		return r;
	if (S_ISLNK(node->attr.mode))
		node->data_bytes = node->bytes;

	layout = layout_of(node);
	bytes = sizeof(struct inode);
	if (layout == LAYOUT_INLINE)
		bytes += xattr_bytes(node) + node->data_bytes;
	*at = cs_align_up(*at, SLOT_BYTES);
	if (*at % CS_IMAGE_BLOCK + bytes > CS_IMAGE_BLOCK)
		*at = cs_align_up(*at, CS_IMAGE_BLOCK);
	node->nid = *at / SLOT_BYTES;
	if (layout != LAYOUT_INLINE)
		bytes += xattr_bytes(node);
	if (layout == LAYOUT_CHUNKS) {
		bytes += 4 * chunk_count(node);
		w->chunks = true;
	}
	*at += bytes;
	return 0;
}

static int queue_node(const struct cs_entry *entry, void *arg)
{
	struct writer *w = arg;
	struct cs_node *node = entry->node;

	if (node->queue || w->last == &node->queue)
		return 0; /* a further name of it */
	*w->last = node;
	w->last = &node->queue;
	w->nodes++;
	return 0;
}

/* Queue and place all nodes, a folder's together; then the folders that did not fit inline, behind
 * the inodes. */
static int place_all(struct writer *w, struct cs_tree *tree, struct cs_err *err)
{
	uint64_t at = META_SKIP, block;
	int r;

	w->first = cs_tree_root(tree);
	w->last = &w->first->queue;
	w->nodes = 1;
	for (struct cs_node *node = w->first; node; node = node->queue) {
		r = place(w, node, &at, err);
		if (r < 0)
			return r;
		cs_tree_entries(node, queue_node, w);
	}
	block = (w->meta + cs_align_up(at, CS_IMAGE_BLOCK)) / CS_IMAGE_BLOCK;
	for (struct cs_node *node = w->first; node; node = node->queue) {
		if (!node->data_bytes || layout_of(node) == LAYOUT_INLINE)
			continue;
		node->data_block = block;
		block += cs_align_up(node->data_bytes, CS_IMAGE_BLOCK) / CS_IMAGE_BLOCK;
	}
	if (block > UINT32_MAX)
		return cs_fail(err, EFBIG, "a root of over 16 TiB");
	return 0;
}

static uint32_t where(const struct cs_node *node)
{
	unsigned major_number = major(node->attr.device), minor_number = minor(node->attr.device);

	if (S_ISCHR(node->attr.mode) || S_ISBLK(node->attr.mode))
		return (minor_number & 0xff) | major_number << 8 | (minor_number & ~0xffu) << 12;
	if (layout_of(node) == LAYOUT_CHUNKS)
		return node->chunk_bits - 12;
	if (S_ISREG(node->attr.mode))
		return node->extent_count ? (uint32_t)node->extents[0].image_block : 0;
	return (uint32_t)node->data_block;
}

static int write_map(struct writer *w, const struct cs_node *node, struct cs_err *err)
{
	uint64_t blocks = UINT64_C(1) << (node->chunk_bits - 12), n = chunk_count(node);
	size_t at = 0;
	int r = 0;

	for (uint64_t i = 0; i < n && r == 0; i++) {
		uint32_t entry = htole32(HOLE);

		while (at < node->extent_count &&
		       node->extents[at].file_block + node->extents[at].blocks <= i * blocks)
			at++;
		if (at < node->extent_count && node->extents[at].file_block <= i * blocks)
			entry = htole32((uint32_t)(node->extents[at].image_block + i * blocks -
						   node->extents[at].file_block));
		r = cs_image_append(w->image, &entry, sizeof(entry), err);
	}
	return r;
}

static int write_inode(struct writer *w, const struct cs_node *node, uint32_t ino,
		       struct cs_err *err)
{
	const struct cs_attr *attr = &node->attr;
	enum layout layout = layout_of(node);
	uint64_t xattrs = xattr_bytes(node), at = w->meta + node->nid * SLOT_BYTES;
	const struct inode inode = {
		.format = htole16((uint16_t)(1 | layout << 1)),
		.xattr_count = htole16((uint16_t)(xattrs ? (xattrs - 12) / 4 + 1 : 0)),
		.mode = htole16((uint16_t)attr->mode),
		.bytes = htole64(S_ISREG(attr->mode) ? node->bytes : node->data_bytes),
		.where = htole32(where(node)),
		.ino = htole32(ino),
		.uid = htole32(attr->uid),
		.gid = htole32(attr->gid),
		.mtime = htole64((uint64_t)attr->mtime.tv_sec),
		.mtime_nsec = htole32((uint32_t)attr->mtime.tv_nsec),
		.links = htole32(S_ISDIR(attr->mode) ? node->folders + 2 : node->links),
	};
	int r;

	r = cs_image_zero(w->image, at - cs_image_tell(w->image), err);
	if (r == 0)
		r = cs_image_append(w->image, &inode, sizeof(inode), err);
	if (r == 0)
		r = write_xattrs(w, node, err);
	if (r == 0 && layout == LAYOUT_CHUNKS)
		r = write_map(w, node, err);
	if (r == 0 && layout == LAYOUT_INLINE && S_ISDIR(attr->mode))
		r = write_dir(w, node, err);
	if (r == 0 && layout == LAYOUT_INLINE && S_ISLNK(attr->mode))
		r = cs_image_append(w->image, node->target, node->bytes, err);
	return r;
}

static int write_all(struct writer *w, struct cs_err *err)
{
	uint32_t ino = 0;
	int r = 0;

	for (struct cs_node *node = w->first; node && r == 0; node = node->queue)
		r = write_inode(w, node, ++ino, err);
	for (struct cs_node *node = w->first; node && r == 0; node = node->queue) {
		if (!node->data_block)
			continue;
		r = cs_image_pad(w->image, CS_IMAGE_BLOCK, err);
		if (r < 0)
			break;
		r = S_ISDIR(node->attr.mode)
			    ? write_dir(w, node, err)
			    : cs_image_append(w->image, node->target, node->bytes, err);
	}
	return r;
}

/* ---- superblock ---- */

/* CRC-32C as the format has it: seeded with ones, not inverted at the end. */
static uint32_t crc32c(const uint8_t *data, size_t bytes)
{
	uint32_t crc = UINT32_MAX;

	for (size_t i = 0; i < bytes; i++) {
		crc ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return crc;
}

static int write_super(const struct writer *w, int fd, uint64_t blocks, struct cs_err *err)
{
	uint8_t block[CS_IMAGE_BLOCK] = { 0 };
	struct super super = {
		.magic = htole32(SUPER_MAGIC),
		.feature_compat = htole32(COMPAT_CHECKSUM | COMPAT_MTIME),
		.block_bits = 12,
		.root_nid = htole16((uint16_t)w->first->nid),
		.inodes = htole64(w->nodes),
		.blocks = htole32((uint32_t)blocks),
		.meta_block = htole32((uint32_t)(w->meta / CS_IMAGE_BLOCK)),
		.volume = "clearstore",
		.feature_incompat = htole32(w->chunks ? INCOMPAT_CHUNKS : 0),
	};
	int r;

	memcpy(block + SUPER_OFFSET, &super, sizeof(super));
	super.checksum = htole32(crc32c(block + SUPER_OFFSET, sizeof(block) - SUPER_OFFSET));
	memcpy(block + SUPER_OFFSET, &super, sizeof(super));
	r = cs_pwrite_full(fd, block, sizeof(block), 0);
	return r < 0 ? cs_fail_errno(err, -r, "cannot write the image") : 0;
}

int cs_erofs_finish(struct cs_image *image, int fd, struct cs_tree *tree, uint64_t align,
		    struct cs_err *err)
{
	struct writer w = { .image = image };
	uint64_t blocks;
	int r;

	r = cs_image_pad(image, CS_IMAGE_BLOCK, err);
	if (r < 0)
		return r;
	w.meta = cs_image_tell(image);
	r = place_all(&w, tree, err);
	if (r == 0)
		r = write_all(&w, err);
	if (r == 0)
		r = cs_image_pad(image, CS_IMAGE_BLOCK, err);
	if (r < 0)
		return r;

	blocks = cs_image_tell(image) / CS_IMAGE_BLOCK;
	r = cs_image_pad(image, align, err);
	if (r == 0)
		r = cs_image_flush(image, err);
	if (r == 0)
		r = write_super(&w, fd, blocks, err);
	if (r < 0)
		return r;
	/* the padding was left out as a hole */
	if (ftruncate(fd, (off_t)cs_image_tell(image)) < 0)
		return cs_fail_errno(err, errno, "cannot write the image");
	return 0;
}

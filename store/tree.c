/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/tree.h"

#include <errno.h>
#include <limits.h>
#include <search.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Each costs some 300 bytes here: an archive of nothing but names must not eat the host. */
#define NODES_MAX (UINT64_C(4) << 20)
#define LINKS_MAX 40   /* as the kernel's MAXSYMLINKS */
#define DEPTH_MAX 1024 /* folders in folders; what a guest can still walk by one PATH_MAX path */

struct cs_tree {
	struct cs_node *first, **last;
	struct cs_node *root;
	uint64_t count;         /* nodes that have a name */
	uint64_t births, names; /* nodes ever made; names in folders: both are limited */
};

static int by_name(const void *a, const void *b)
{
	const struct cs_entry *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static struct cs_node *node_new(struct cs_tree *tree, const struct cs_attr *attr)
{
	struct cs_node *node = calloc(1, sizeof(*node));

	if (!node)
		return NULL;
	tree->births++;
	node->attr = *attr;
	*tree->last = node;
	tree->last = &node->next;
	return node;
}

static struct cs_entry *entry_new(const char *name)
{
	size_t bytes = strlen(name) + 1;
	struct cs_entry *entry = malloc(sizeof(*entry) + bytes);

	if (!entry)
		return NULL;
	entry->node = NULL;
	memcpy(entry->name, name, bytes);
	return entry;
}

int cs_tree_open(struct cs_tree **ret, struct cs_err *err)
{
	static const struct cs_attr attr = { .mode = S_IFDIR | 0755 };
	cs_auto(cs_tree_freep) struct cs_tree *tree = calloc(1, sizeof(*tree));

	if (!tree)
		return cs_fail_errno(err, ENOMEM, "tree");
	tree->last = &tree->first;
	tree->root = node_new(tree, &attr);
	if (!tree->root)
		return cs_fail_errno(err, ENOMEM, "tree");
	tree->root->parent = tree->root;
	tree->root->links = 1;
	tree->count = 1;
	*ret = cs_steal(tree);
	return 0;
}

static struct cs_node *lookup(const struct cs_node *dir, const char *name)
{
	cs_auto(cs_mem_freep) struct cs_entry *key = entry_new(name);
	void *found = key ? tfind(key, &dir->entries, by_name) : NULL;

	return found ? (*(struct cs_entry **)found)->node : NULL;
}

static unsigned depth_of(const struct cs_node *dir)
{
	unsigned depth = 0;

	for (; dir->parent != dir && depth <= DEPTH_MAX; dir = dir->parent)
		depth++;
	return depth;
}

static void forget(struct cs_tree *tree, struct cs_node *node)
{
	if (--node->links == 0)
		tree->count--;
}

/* Take what (name) is in (dir) away, so that something else can have the name. */
static int make_room(struct cs_tree *tree, struct cs_node *dir, const char *name)
{
	cs_auto(cs_mem_freep) struct cs_entry *key = entry_new(name);
	struct cs_entry *entry;
	void *found;

	if (!key)
		return -ENOMEM;
	found = tfind(key, &dir->entries, by_name);
	if (!found)
		return 0;
	entry = *(struct cs_entry **)found;
	if (S_ISDIR(entry->node->attr.mode)) {
		if (entry->node->entry_count)
			return -EEXIST;
		dir->folders--;
	}
	tdelete(key, &dir->entries, by_name);
	dir->entry_count--;
	tree->names--;
	forget(tree, entry->node);
	free(entry);
	return 0;
}

/* Give (node) the free name (name) in (dir). */
static int enter(struct cs_tree *tree, struct cs_node *dir, const char *name, struct cs_node *node)
{
	struct cs_entry *entry;

	if (tree->names >= NODES_MAX)
		return -EMLINK;
	entry = entry_new(name);
	if (!entry || !tsearch(entry, &dir->entries, by_name)) {
		free(entry);
		return -ENOMEM;
	}
	entry->node = node;
	dir->entry_count++;
	tree->names++;
	if (S_ISDIR(node->attr.mode)) {
		node->parent = dir;
		dir->folders++;
	}
	if (node->links++ == 0)
		tree->count++;
	return 0;
}

static int add_new(struct cs_tree *tree, struct cs_node *dir, const struct cs_tree_item *item,
		   struct cs_node **ret)
{
	struct cs_node *node;
	int r;

	if (tree->births >= NODES_MAX)
		return -EMLINK;
	if (S_ISDIR(item->attr->mode) && depth_of(dir) >= DEPTH_MAX)
		return -EMLINK;
	node = node_new(tree, item->attr);
	if (!node)
		return -ENOMEM;
	if (item->target) {
		node->target = strdup(item->target);
		if (!node->target)
			return -ENOMEM;
		node->bytes = strlen(node->target);
	}
	r = enter(tree, dir, item->path, node);
	if (r < 0)
		return r;
	*ret = node;
	return 0;
}

/* Legal as one name in a folder: no more may reach an image than what a kernel can look up. */
static int check_name(const char *name)
{
	size_t bytes = strnlen(name, NAME_MAX + 1);

	if (!bytes || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
		return -EINVAL;
	return bytes > NAME_MAX ? -ENAMETOOLONG : 0;
}

static void drop_xattrs(struct cs_node *node)
{
	while (node->xattrs) {
		struct cs_xattr *xattr = node->xattrs;

		node->xattrs = xattr->next;
		free(xattr->name);
		free(xattr->value);
		free(xattr);
	}
}

static int add_in(struct cs_tree *tree, struct cs_node *dir, const struct cs_tree_item *item,
		  struct cs_node **ret)
{
	struct cs_node *old;
	int r;

	r = check_name(item->path);
	if (r < 0)
		return r;
	old = lookup(dir, item->path);
	if (old && S_ISDIR(old->attr.mode) && S_ISDIR(item->attr->mode)) {
		old->attr = *item->attr;
		drop_xattrs(old);
		*ret = old;
		return 0;
	}
	r = make_room(tree, dir, item->path);
	if (r < 0)
		return r;
	return add_new(tree, dir, item, ret);
}

/* What is left of a path while it is walked; links put their targets in front. */
struct walk {
	struct cs_node *dir;
	unsigned links;
	bool create; /* make missing folders on the way */
	char rest[2 * PATH_MAX];
	char name[NAME_MAX + 1];
};

/* Move the next component from walk->rest to walk->name; false: none is left. */
static int next_name(struct walk *walk)
{
	size_t skip = strspn(walk->rest, "/");
	size_t bytes = strcspn(walk->rest + skip, "/");

	if (bytes > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(walk->name, walk->rest + skip, bytes);
	walk->name[bytes] = '\0';
	memmove(walk->rest, walk->rest + skip + bytes, strlen(walk->rest + skip + bytes) + 1);
	return bytes > 0;
}

static int follow(struct cs_tree *tree, struct walk *walk, const char *target)
{
	size_t bytes = strlen(target), rest = strlen(walk->rest);

	if (++walk->links > LINKS_MAX)
		return -ELOOP;
	if (bytes + 1 + rest + 1 > sizeof(walk->rest))
		return -ENAMETOOLONG;
	if (target[0] == '/')
		walk->dir = tree->root;
	memmove(walk->rest + bytes + 1, walk->rest, rest + 1);
	memcpy(walk->rest, target, bytes);
	walk->rest[bytes] = '/';
	return 0;
}

/* Step into the folder walk->name. */
static int step(struct cs_tree *tree, struct walk *walk)
{
	static const struct cs_attr attr = { .mode = S_IFDIR | 0755 };
	const struct cs_tree_item item = { .path = walk->name, .attr = &attr };
	struct cs_node *node;
	int r;

	if (!strcmp(walk->name, "."))
		return 0;
	if (!strcmp(walk->name, "..")) {
		walk->dir = walk->dir->parent;
		return 0;
	}
	node = lookup(walk->dir, walk->name);
	if (!node && !walk->create)
		return -ENOENT;
	if (!node) {
		r = add_new(tree, walk->dir, &item, &node);
		if (r < 0)
			return r;
	}
	if (S_ISLNK(node->attr.mode))
		return follow(tree, walk, node->target);
	if (!S_ISDIR(node->attr.mode))
		return -ENOTDIR;
	walk->dir = node;
	return 0;
}

static bool is_last(const char *rest)
{
	return rest[strspn(rest, "/")] == '\0';
}

/* Walk to the folder that holds the last component of (path), which is left in walk->name; 0:
 * (path) is the root itself, 1: there is a name. */
static int walk_to(struct cs_tree *tree, const char *path, struct walk *walk)
{
	int r;

	if (strlen(path) >= PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(walk->rest, path, strlen(path) + 1);
	walk->dir = tree->root;
	walk->links = 0;
	for (;;) {
		r = next_name(walk);
		if (r <= 0)
			return r;
		if (is_last(walk->rest) && strcmp(walk->name, ".") && strcmp(walk->name, ".."))
			return 1;
		r = step(tree, walk);
		if (r < 0)
			return r;
	}
}

static int fail_path(struct cs_err *err, int r, const char *path)
{
	switch (-r) {
	case EEXIST:
		return cs_fail(err, EEXIST, "'%.200s': would replace a folder that is not empty",
			       path);
	case ENOTDIR:
		return cs_fail(err, ENOTDIR, "'%.200s': leads through something that is no folder",
			       path);
	case EMLINK:
		return cs_fail(err, EMLINK,
			       "'%.200s': over %llu files, or over %d folders deep: not a root "
			       "file system",
			       path, (unsigned long long)NODES_MAX, DEPTH_MAX);
	case EINVAL:
		return cs_fail(err, EINVAL, "'%.200s': not a legal file name", path);
	default:
		return cs_fail_errno(err, -r, "'%.200s'", path);
	}
}

int cs_tree_add_in(struct cs_tree *tree, struct cs_node *dir, const struct cs_tree_item *item,
		   struct cs_node **ret, struct cs_err *err)
{
	int r = add_in(tree, dir, item, ret);

	return r < 0 ? fail_path(err, r, item->path) : 0;
}

int cs_tree_link_in(struct cs_tree *tree, struct cs_node *dir, const char *name,
		    struct cs_node *node, struct cs_err *err)
{
	int r = check_name(name);

	if (r == 0 && lookup(dir, name) == node)
		return 0;
	if (r == 0)
		r = make_room(tree, dir, name);
	if (r == 0)
		r = enter(tree, dir, name, node);
	return r < 0 ? fail_path(err, r, name) : 0;
}

int cs_tree_add(struct cs_tree *tree, const struct cs_tree_item *item, struct cs_node **ret,
		struct cs_err *err)
{
	struct walk walk = { .create = true };
	struct cs_tree_item here = *item;
	int r;

	r = walk_to(tree, item->path, &walk);
	if (r < 0)
		return fail_path(err, r, item->path);
	if (r == 0) { /* "./": the root's own attributes, or a path that ends in ".." */
		if (!S_ISDIR(item->attr->mode))
			return fail_path(err, -EEXIST, item->path);
		walk.dir->attr = *item->attr;
		drop_xattrs(walk.dir);
		*ret = walk.dir;
		return 0;
	}
	here.path = walk.name;
	r = add_in(tree, walk.dir, &here, ret);
	return r < 0 ? fail_path(err, r, item->path) : 0;
}

int cs_tree_link(struct cs_tree *tree, const char *path, const char *existing, struct cs_err *err)
{
	struct walk walk = { 0 };
	struct cs_node *node;
	int r;

	r = walk_to(tree, existing, &walk);
	node = r > 0 ? lookup(walk.dir, walk.name) : NULL;
	if (!node)
		return cs_fail(err, ENOENT, "'%.200s': a hard link to '%.150s', which is not there",
			       path, existing);
	if (S_ISDIR(node->attr.mode))
		return cs_fail(err, EISDIR, "'%.200s': a hard link to the folder '%.150s'", path,
			       existing);
	walk.create = true;
	r = walk_to(tree, path, &walk);
	if (r <= 0)
		return fail_path(err, r < 0 ? r : -EINVAL, path);
	return cs_tree_link_in(tree, walk.dir, walk.name, node, err);
}

int cs_tree_xattr(struct cs_node *node, const char *name, const void *value, size_t bytes)
{
	struct cs_xattr *xattr;

	for (xattr = node->xattrs; xattr && strcmp(xattr->name, name); xattr = xattr->next)
		;
	if (!xattr) {
		xattr = calloc(1, sizeof(*xattr));
		if (!xattr)
			return -ENOMEM;
		xattr->next = node->xattrs;
		node->xattrs = xattr;
		xattr->name = strdup(name);
		if (!xattr->name)
			return -ENOMEM;
	}
	free(xattr->value);
	xattr->bytes = 0;
	xattr->value = malloc(bytes ? bytes : 1);
	if (!xattr->value)
		return -ENOMEM;
	memcpy(xattr->value, value, bytes);
	xattr->bytes = bytes;
	return 0;
}

struct cs_node *cs_tree_find(struct cs_tree *tree, const char *path)
{
	struct walk walk = { 0 };
	struct cs_node *node;
	unsigned links = 0;
	int r;

	r = walk_to(tree, path, &walk);
	for (;;) {
		if (r <= 0)
			return r == 0 ? walk.dir : NULL;
		node = lookup(walk.dir, walk.name);
		if (!node || !S_ISLNK(node->attr.mode))
			return node;
		/* the last component is a link: go on from where it stands */
		if (++links > LINKS_MAX || follow(tree, &walk, node->target) < 0)
			return NULL;
		while ((r = next_name(&walk)) > 0) {
			if (is_last(walk.rest) && strcmp(walk.name, ".") && strcmp(walk.name, ".."))
				break;
			r = step(tree, &walk);
			if (r < 0)
				return NULL;
		}
	}
}

struct cs_node *cs_tree_root(struct cs_tree *tree)
{
	return tree->root;
}

uint64_t cs_tree_count(const struct cs_tree *tree)
{
	return tree->count;
}

struct visit {
	cs_entry_fn fn;
	void *arg;
	int r;
};

static void visit_one(const void *nodep, VISIT which, void *closure)
{
	struct visit *visit = closure;

	if ((which == postorder || which == leaf) && visit->r == 0)
		visit->r = visit->fn(*(struct cs_entry *const *)nodep, visit->arg);
}

int cs_tree_entries(const struct cs_node *dir, cs_entry_fn fn, void *arg)
{
	struct visit visit = { .fn = fn, .arg = arg };

	twalk_r(dir->entries, visit_one, &visit);
	return visit.r;
}

struct cs_tree *cs_tree_free(struct cs_tree *tree)
{
	if (!tree)
		return NULL;
	while (tree->first) {
		struct cs_node *node = tree->first;

		tree->first = node->next;
		tdestroy(node->entries, free);
		drop_xattrs(node);
		free(node->target);
		free(node->extents);
		free(node);
	}
	free(tree);
	return NULL;
}

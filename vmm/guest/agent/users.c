/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/guest/agent/users.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/guest/agent/file.h"

/* A stretch of text that is not NUL-terminated. */
struct piece {
	const char *at;
	size_t n;
};

static bool piece_is(struct piece p, struct piece q)
{
	return p.n == q.n && !memcmp(p.at, q.at, p.n);
}

/* Cut the text up to (stop), or to its end, off (rest). */
static struct piece cut(struct piece *rest, char stop)
{
	const char *end = rest->n ? memchr(rest->at, stop, rest->n) : NULL;
	struct piece head = { rest->at, end ? (size_t)(end - rest->at) : rest->n };
	size_t gone = head.n + (end ? 1 : 0);

	rest->at += gone;
	rest->n -= gone;
	return head;
}

/* A decimal number below 2^32 - 1 (which chown and setuid take for "no change"). */
static bool piece_number(struct piece p, uint32_t *ret)
{
	uint64_t value = 0;

	if (!p.n || p.n > 10)
		return false;

	for (size_t i = 0; i < p.n; i++) {
		if (p.at[i] < '0' || p.at[i] > '9')
			return false;
		value = value * 10 + (uint64_t)(p.at[i] - '0');
	}
	if (value >= UINT32_MAX)
		return false;

	*ret = (uint32_t)value;
	return true;
}

static void piece_copy(struct piece p, char *into, size_t room)
{
	size_t n = p.n < room ? p.n : room - 1;

	memcpy(into, p.at, n);
	into[n] = 0;
}

static struct piece text(const char *s)
{
	return (struct piece){ s ? s : "", s ? strlen(s) : 0 };
}

/* name:password:uid:gid:gecos:home:shell. Fills (ret) from the line of (who); false: none has it.
 * A line with a broken number is no entry. */
static bool find_passwd(struct piece file, struct piece who, struct cs_user *ret)
{
	uint32_t number = 0;
	bool numeric = piece_number(who, &number);

	while (file.n) {
		struct piece line = cut(&file, '\n');
		struct piece name = cut(&line, ':'), uid_text, gid_text, home;
		uint32_t uid, gid;

		cut(&line, ':');
		uid_text = cut(&line, ':');
		gid_text = cut(&line, ':');
		cut(&line, ':');
		home = cut(&line, ':');
		if (!piece_number(uid_text, &uid) || !piece_number(gid_text, &gid))
			continue;
		if (!piece_is(name, who) && !(numeric && uid == number))
			continue;

		ret->uid = uid;
		ret->gid = gid;
		piece_copy(name, ret->name, sizeof(ret->name));
		piece_copy(home.n ? home : text("/"), ret->home, sizeof(ret->home));
		return true;
	}

	return false;
}

/* name:password:gid:member,member. The number of group (who). */
static bool find_group(struct piece file, struct piece who, uint32_t *ret)
{
	while (file.n) {
		struct piece line = cut(&file, '\n');
		struct piece name = cut(&line, ':'), gid;

		cut(&line, ':');
		gid = cut(&line, ':');
		if (piece_is(name, who) && piece_number(gid, ret))
			return true;
	}

	return piece_number(who, ret);
}

static bool is_member(struct piece members, struct piece who)
{
	while (members.n) {
		if (piece_is(cut(&members, ','), who))
			return true;
	}

	return false;
}

static void collect_groups(struct piece file, struct cs_user *user)
{
	struct piece who = text(user->name);

	while (file.n && user->n_groups < CS_USER_GROUPS) {
		struct piece line = cut(&file, '\n'), gid_text;
		uint32_t gid;

		cut(&line, ':');
		cut(&line, ':');
		gid_text = cut(&line, ':');
		if (is_member(line, who) && piece_number(gid_text, &gid))
			user->groups[user->n_groups++] = gid;
	}
}

int cs_user_find(const char *spec, const char *passwd, const char *group, struct cs_user *ret)
{
	struct piece rest = text(spec), who = cut(&rest, ':');
	bool has_group = memchr(spec, ':', strlen(spec)) != NULL;
	struct cs_user user = { .name = "", .home = "/" };

	if (!*spec) {
		*ret = (struct cs_user){ .name = "root", .home = "/root" };
		return 0;
	}
	if (!who.n || (has_group && (!rest.n || memchr(rest.at, ':', rest.n))))
		return -EINVAL;

	if (!find_passwd(text(passwd), who, &user) && !piece_number(who, &user.uid))
		return -ENOENT;

	if (has_group) {
		if (!find_group(text(group), rest, &user.gid))
			return -ESRCH;
	} else if (*user.name) {
		collect_groups(text(group), &user);
	}

	*ret = user;
	return 0;
}

int cs_user_load(const char *spec, struct cs_user *ret)
{
	char *passwd, *group;
	int r;

	if (!*spec)
		return cs_user_find(spec, NULL, NULL, ret);

	/* A root without the files still has its numbers. */
	passwd = cs_file_load("/etc/passwd");
	group = cs_file_load("/etc/group");
	r = cs_user_find(spec, passwd, group, ret);
	free(passwd);
	free(group);
	return r;
}

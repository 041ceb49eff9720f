/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who a process in the guest runs as, from the root's own /etc/passwd and /etc/group: a static
 * program has no name service. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define CS_USER_GROUPS 128

struct cs_user {
	uint32_t uid, gid;
	uint32_t groups[CS_USER_GROUPS]; /* supplementary; more of them are left out */
	size_t n_groups;
	char name[64];  /* "" when the number has no entry */
	char home[256]; /* "/" when the number has no entry */
};

/* (spec): "name", "uid", "name:group", "uid:gid", or "" for root. A number needs no entry: its
 * group is then 0, its home "/". With a group named, there are no supplementary ones (as docker and
 * podman do it). (passwd) and (group) are the texts of the two files, NULL: there is none.
 * -ENOENT: no such user; -ESRCH: no such group; -EINVAL: not a user at all. */
int cs_user_find(const char *spec, const char *passwd, const char *group, struct cs_user *ret);

/* The same from the files of this root; "" is answered without reading any. */
int cs_user_load(const char *spec, struct cs_user *ret);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fs-verity: a file that the kernel checks against a tree of hashes, block by block, whenever one
 * is read from the disk, and that cannot be written to any more. What it is can be asked in a
 * moment. Btrfs has it since 5.15, ext4 since 5.4, in kernels with CONFIG_FS_VERITY. */
#pragma once

#include "store/digest.h"

/* Protect the file (fd), open for reading and by nobody for writing. 0, also when it is already;
 * -EOPNOTSUPP: not with this kernel or file system, -ETXTBSY: somebody can still write to it. */
int cs_verity_enable(int fd);

/* The digest of the tree, in hex. -ENODATA: the file has none, -EOPNOTSUPP: as above. */
int cs_verity_measure(int fd, char ret[CS_DIGEST_TEXT]);

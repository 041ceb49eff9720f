/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libarchive, loaded when an archive is to be read: it brings a dozen libraries with it, which cost
 * every command 4 ms and a guest's monitor 200 KiB, and one command in twenty needs them. */
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include "store/base/library.h"

#define CS_LIBARCHIVE_CALLS(X)                                                                     \
	X(archive_entry_acl_next)                                                                  \
	X(archive_entry_acl_reset)                                                                 \
	X(archive_entry_clear)                                                                     \
	X(archive_entry_filetype)                                                                  \
	X(archive_entry_free)                                                                      \
	X(archive_entry_gid)                                                                       \
	X(archive_entry_hardlink)                                                                  \
	X(archive_entry_mtime)                                                                     \
	X(archive_entry_mtime_is_set)                                                              \
	X(archive_entry_mtime_nsec)                                                                \
	X(archive_entry_new)                                                                       \
	X(archive_entry_pathname)                                                                  \
	X(archive_entry_perm)                                                                      \
	X(archive_entry_rdevmajor)                                                                 \
	X(archive_entry_rdevminor)                                                                 \
	X(archive_entry_set_mode)                                                                  \
	X(archive_entry_set_nlink)                                                                 \
	X(archive_entry_set_pathname)                                                              \
	X(archive_entry_set_size)                                                                  \
	X(archive_entry_size)                                                                      \
	X(archive_entry_size_is_set)                                                               \
	X(archive_entry_sparse_count)                                                              \
	X(archive_entry_symlink)                                                                   \
	X(archive_entry_uid)                                                                       \
	X(archive_entry_xattr_next)                                                                \
	X(archive_entry_xattr_reset)                                                               \
	X(archive_errno)                                                                           \
	X(archive_error_string)                                                                    \
	X(archive_filter_bytes)                                                                    \
	X(archive_format)                                                                          \
	X(archive_read_data_block)                                                                 \
	X(archive_read_free)                                                                       \
	X(archive_read_header_position)                                                            \
	X(archive_read_new)                                                                        \
	X(archive_read_next_header)                                                                \
	X(archive_read_open)                                                                       \
	X(archive_read_open_fd)                                                                    \
	X(archive_read_support_filter_bzip2)                                                       \
	X(archive_read_support_filter_compress)                                                    \
	X(archive_read_support_filter_gzip)                                                        \
	X(archive_read_support_filter_lz4)                                                         \
	X(archive_read_support_filter_lzip)                                                        \
	X(archive_read_support_filter_lzma)                                                        \
	X(archive_read_support_filter_xz)                                                          \
	X(archive_read_support_filter_zstd)                                                        \
	X(archive_read_support_format_7zip)                                                        \
	X(archive_read_support_format_cpio)                                                        \
	X(archive_read_support_format_iso9660)                                                     \
	X(archive_read_support_format_raw)                                                         \
	X(archive_read_support_format_tar)                                                         \
	X(archive_read_support_format_zip)                                                         \
	X(archive_set_error)                                                                       \
	X(archive_write_close)                                                                     \
	X(archive_write_data)                                                                      \
	X(archive_write_free)                                                                      \
	X(archive_write_header)                                                                    \
	X(archive_write_new)                                                                       \
	X(archive_write_open_fd)                                                                   \
	X(archive_write_set_format_cpio_newc)

/* Its functions, under their names. Zeroed is not loaded. */
struct cs_libarchive {
	CS_LIBARCHIVE_CALLS(CS_LIBRARY_CALL)
};

/* As cs_library_load(). */
int cs_libarchive_load(struct cs_libarchive *ret, struct cs_err *err);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text from guests and files, made fit to be shown: in place, byte for byte, no allocation. */
#pragma once

#include <stdbool.h>

/* Put '?' for each byte of (text) that is not part of a valid UTF-8 sequence (RFC 3629), and,
 * unless (keep_controls), for each byte of a control character (C0, DEL, C1) or of one that turns
 * the direction of writing; tab and newline become a blank. Returns (text), of the same length. */
char *cs_text_clean(char *text, bool keep_controls);

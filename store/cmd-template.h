/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of `clearstore template` know of each other. */
#pragma once

#include "vmm/command.h"

extern const struct cs_command cs_cmd_template_add;

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of `clearstore template` know of each other. */
#pragma once

#include "vmm/command.h"

extern const struct cs_command cs_cmd_template_add, cs_cmd_template_update;
extern const struct cs_command cs_cmd_template_verify, cs_cmd_template_move;
extern const struct cs_command cs_cmd_template_versions, cs_cmd_template_activate;
extern const struct cs_command cs_cmd_template_rollback, cs_cmd_template_prune;

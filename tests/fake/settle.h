/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Run a real loop in the test's own thread until nothing is left to do. A program that links this
 * wraps epoll_wait (-Wl,--wrap=epoll_wait). Timers do not fire. */
#pragma once

#include "vmm/loop.h"

/* Fails when that never comes: something in the loop spins. */
void settle(struct cs_loop *loop);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the monitor and commands on the host speak with the agent in the guest, over vsock. The one
 * header that both sides share; it includes nothing of the project.
 *
 * Two kinds of stream connection.
 *
 * control: the agent connects to CID 2, port CS_WIRE_CONTROL_PORT. The monitor answers itself.
 *   guest HELLO, host CONFIG, guest READY (serving; COMMAND, if any, has been started)
 *   A guest that has been restored hears of it in one of two ways, and wakes up as who CONFIG says:
 *   by another CONFIG, which it answers with READY; or by a connection that is reset, then it
 *   connects again and all is as at boot
 *   guest EXITED (COMMAND has ended)
 *   host STOP, guest BYE, after which the monitor ends the machine
 *   host FREEZE, guest FROZEN, host THAW; each FREEZE gets one FROZEN, also one that a THAW
 * overtook
 *   host PING, guest PONG, after READY. Since version 3: a connection for each costs a guest whose
 *   kernel is emulated more than its answer
 *
 * service: the host connects to the guest's port CS_WIRE_AGENT_PORT, as often as it likes.
 *   PING -> PONG; or EXEC, then STDIN SIGNAL RESIZE against STARTED STDOUT STDERR CREDIT, closed by
 *   EXIT or FAIL.
 *
 * Every message is a head and (bytes) of payload; all integers little endian. A peer that sends an
 * unknown type, a payload over CS_WIRE_MAX or of the wrong size is cut off: the host never trusts
 * the guest, and the reverse costs nothing.
 *
 * Strings in payloads: NUL-terminated UTF-8. A list of strings: u32 count, then so many strings. */
#pragma once

#include <stdint.h>

#define CS_WIRE_VERSION      5u
#define CS_WIRE_OLDEST       1u /* what the host still serves: without FREEZE */
#define CS_WIRE_OLDEST_SAVED 2u /* what can wake up from a saved state */
#define CS_WIRE_CONTROL_PORT 1u
#define CS_WIRE_AGENT_PORT   1u
#define CS_WIRE_HOST_CID     2u
#define CS_WIRE_MAX          65536u

struct cs_wire_head {
	uint32_t type;
	uint32_t bytes;
};

enum cs_wire_type {
	/* control */
	CS_WIRE_HELLO = 1,  /* guest: u32 version */
	CS_WIRE_CONFIG = 2, /* host: struct cs_wire_config, then string hostname, list argv (empty:
			       no COMMAND), list env */
	CS_WIRE_READY = 3,  /* guest: nothing */
	CS_WIRE_EXITED = 4, /* guest: u32 status (0-255; 128 + signal) */
	CS_WIRE_STOP =
		5, /* host: u32 enum cs_wire_stop, u32 grace in ms between SIGTERM and SIGKILL */
	CS_WIRE_BYE = 6, /* guest: u32 enum cs_wire_stop; everything is synced and unmounted */
	CS_WIRE_TROUBLE =
		7, /* guest: string; something the user should read ("disk: cannot mount ...") */

	CS_WIRE_FREEZE = 8, /* host: struct cs_wire_freeze; after READY. Since version 2 */
	CS_WIRE_FROZEN =
		9, /* guest: u32 errno; 0: no process runs but the agent; else all run again */
	CS_WIRE_THAW = 10, /* host: nothing. Harmless when nothing is frozen */

	/* both */
	CS_WIRE_PING = 16, /* host: any payload up to 64 bytes */
	CS_WIRE_PONG =
		17, /* guest: the same payload; answered by the agent itself, no process started */

	/* service */
	CS_WIRE_EXEC = 18, /* host: struct cs_wire_exec, string user ("" root), string folder ("";
			      "/"), list argv, list env */
	CS_WIRE_STARTED = 19, /* guest: u32 pid in the guest */
	CS_WIRE_STDIN =
		20, /* host: bytes; an empty one is end of file. Only as much as CREDIT allows */
	CS_WIRE_SIGNAL = 21, /* host: u32 signal number, sent to the process group */
	CS_WIRE_RESIZE = 22, /* host: struct cs_wire_size */
	CS_WIRE_STDOUT = 23, /* guest: bytes (with a terminal: all output) */
	CS_WIRE_STDERR = 24, /* guest: bytes */
	CS_WIRE_CREDIT = 25, /* guest: u32 further bytes of STDIN it will take: so that SIGNAL never
				waits behind data */
	CS_WIRE_EXIT = 26,   /* guest: u32 status (0-255; 128 + signal); after all output; the guest
				closes */
	CS_WIRE_FAIL = 27,   /* guest: u32 errno, string words; nothing was run; the guest closes */
};

/* STDIN bytes the host may send before the first CREDIT. */
#define CS_WIRE_STDIN_CREDIT 65536u

enum cs_wire_stop {
	CS_WIRE_POWEROFF = 0,
	CS_WIRE_REBOOT = 1,
};

enum cs_wire_freeze_flag {
	CS_WIRE_FREEZE_SYNC = 1, /* write everything to the disk, once nothing runs */
	CS_WIRE_FREEZE_DROP = 2, /* then let go of clean page cache, dentries and inodes */
};

enum cs_wire_config_flag {
	CS_WIRE_CONFIG_PERSIST = 1, /* the overlay's upper is on the disk /dev/vda, not on tmpfs */
	CS_WIRE_CONFIG_INIT = 2,    /* hand PID 1 to /sbin/init */
	CS_WIRE_CONFIG_SAME = 4, /* restored, and not another one: keeps machine id and boot id */
};

struct cs_wire_config {
	uint64_t realtime_ns; /* since 1970, UTC */
	uint32_t flags;
	uint32_t reserved;
	uint8_t seed[32]; /* fresh randomness from the host, mixed into the guest's */
	/* Since version 2: random bytes for ids that are no secret. To ask the guest's kernel for
	 * some takes it milliseconds where it is slow. */
	uint8_t boot_id[16], machine_id[16];
	/* Since version 4: the machine's clock (kvmclock) when it was realtime_ns; 0: not known. It
	 * goes at the pace of the guest's CLOCK_MONOTONIC_RAW, also over a save, so a guest that
	 * reads this late, since its vCPU had to wait for its turn, knows by how much. */
	uint64_t clock_ns;
};
#define CS_WIRE_CONFIG_1 48u /* bytes of it in version 1 */
#define CS_WIRE_CONFIG_2 80u /* in versions 2 and 3 */

struct cs_wire_freeze {
	uint32_t flags; /* enum cs_wire_freeze_flag */
	uint32_t reserved;
	uint64_t clock_ns; /* since version 5: as in CONFIG, when this was sent */
};
#define CS_WIRE_FREEZE_2 4u /* bytes of it in versions 2 to 4 */

struct cs_wire_size {
	uint16_t rows, columns;
};

enum cs_wire_exec_flag {
	CS_WIRE_EXEC_TTY = 1, /* a terminal of (size) is stdin, stdout and stderr */
};

struct cs_wire_exec {
	uint32_t flags;
	struct cs_wire_size size;
};

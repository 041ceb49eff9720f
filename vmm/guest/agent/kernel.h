/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the agent asks of Linux and musl's headers do not name: musl-gcc sees no kernel headers. The
 * names are our own, so that the files also compile beside the kernel's headers. Sources:
 * include/uapi/linux/{vm_sockets,random,fs,sched}.h of Linux 6.12. */
#pragma once

#include <stdint.h>
#include <sys/socket.h>

#define CS_CID_ANY 0xffffffffu

struct cs_sockaddr_vm {
	sa_family_t family;
	uint16_t reserved;
	uint32_t port, cid;
	uint8_t flags, zero[3];
};
_Static_assert(sizeof(struct cs_sockaddr_vm) == sizeof(struct sockaddr), "sockaddr_vm");

struct cs_rand_pool {
	int entropy_bits, bytes;
	uint8_t data[32];
};

/* struct clone_args of clone3(2), since 5.7. */
struct cs_clone {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
		set_tid_size, cgroup;
};
#define CS_CLONE_INTO_CGROUP UINT64_C(0x200000000)

#define CS_RNDADDENTROPY   0x40085203 /* _IOW('R', 0x03, int[2]) */
#define CS_RNDRESEEDCRNG   0x5207     /* _IO('R', 0x07); since 4.17 */
#define CS_RNDMIXKEY       0x40205240 /* _IOW('R', 0x40, __u8[32]), of our kernel: patches/0011 */
#define CS_FIFREEZE        0xc0045877 /* _IOWR('X', 119, int) */
#define CS_TIOCGPTPEER     0x5441     /* _IO('T', 0x41): the slave of a master, without a path */
#define CS_SIGNAL_POWEROFF 38         /* what glibc calls SIGRTMIN+4; musl's SIGRTMIN is 35 */
#define CS_SIGNAL_REBOOT   39         /* and SIGRTMIN+5 */

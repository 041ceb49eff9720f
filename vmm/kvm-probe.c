/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/kvm-private.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "store/base/own.h"

/*
 * The guest, position 0x1000. It sets STAR, LSTAR and FMASK, goes to ring 3 with SYSRET and makes a
 * SYSCALL there. The answer leaves by port 0x10: 'S' from the handler at LSTAR in ring 0, 'P' from
 * the page-fault handler: the entry point lies on a supervisor page, so fetching it as user faults.
 * The three stretches lie on pages of their own, as the page table says which ring may execute
 * them.
 */
__asm__(".pushsection .rodata\n"
	".balign 4096\n"
	"probe_guest:\n"
	"	mov $0xc0000081, %ecx\n" /* STAR: kernel selectors from 0x10, user from 0x23 */
	"	xor %eax, %eax\n"
	"	mov $0x00230010, %edx\n"
	"	wrmsr\n"
	"	mov $0xc0000082, %ecx\n" /* LSTAR */
	"	mov $(0x1000 + probe_entry - probe_guest), %eax\n"
	"	xor %edx, %edx\n"
	"	wrmsr\n"
	"	mov $0xc0000084, %ecx\n" /* FMASK: clear IF and TF */
	"	mov $0x300, %eax\n"
	"	wrmsr\n"
	"	mov $(0x1000 + probe_user - probe_guest), %ecx\n"
	"	mov $2, %r11d\n"
	"	sysretq\n"
	"probe_entry:\n"
	"	mov $'S', %al\n"
	"	out %al, $0x10\n"
	"	hlt\n"
	"probe_fault:\n"
	"	mov $'P', %al\n"
	"	out %al, $0x10\n"
	"	hlt\n"
	".org probe_guest + 0x1000\n"
	"probe_user:\n"
	"	syscall\n"
	"1:	jmp 1b\n"
	"probe_end:\n"
	".popsection\n");

extern const char probe_guest[], probe_fault[], probe_user[], probe_end[];

enum {
	PROBE_BYTES = 0x20000,
	AT_GUEST = 0x1000, /* supervisor; 0x2000 behind it: user */
	AT_PML4 = 0x4000,
	AT_PDPT = 0x5000,
	AT_PD = 0x6000,
	AT_PT = 0x7000,
	AT_GDT = 0x8000,
	AT_TSS = 0x9000,
	AT_IDT = 0xa000,
	AT_STACK = 0x10000,
};

static void put64(uint8_t *mem, unsigned at, uint64_t value)
{
	memcpy(mem + at, &value, sizeof(value));
}

static void build_guest(uint8_t *mem)
{
	const uint64_t fault = AT_GUEST + (uint64_t)(probe_fault - probe_guest);

	memcpy(mem + AT_GUEST, probe_guest, (size_t)(probe_end - probe_guest));
	put64(mem, AT_PML4, AT_PDPT | 7);
	put64(mem, AT_PDPT, AT_PD | 7);
	put64(mem, AT_PD, AT_PT | 7);
	for (unsigned page = 0; page < PROBE_BYTES / 0x1000; page++)
		put64(mem, AT_PT + page * 8,
		      page * 0x1000 | (page == AT_GUEST / 0x1000 + 1 ? 7 : 3));

	put64(mem, AT_GDT + 0x10, 0x00af9b000000ffff); /* kernel code, data */
	put64(mem, AT_GDT + 0x18, 0x00cf93000000ffff);
	put64(mem, AT_GDT + 0x20, 0x00cffb000000ffff); /* user code 32, data, code 64 */
	put64(mem, AT_GDT + 0x28, 0x00cff3000000ffff);
	put64(mem, AT_GDT + 0x30, 0x00affb000000ffff);
	put64(mem, AT_GDT + 0x40, UINT64_C(0x0000890000000067) | (uint64_t)AT_TSS << 16);
	put64(mem, AT_TSS + 4, AT_STACK); /* RSP0 */
	put64(mem, AT_IDT + 14 * 16, (fault & 0xffff) | 0x10 << 16 | UINT64_C(0x8e00) << 32);
}

static int set_registers(int vcpu)
{
	const struct kvm_segment code = {
		.limit = ~0u, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	const struct kvm_segment data = {
		.limit = ~0u, .selector = 0x18, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
	};
	struct kvm_regs regs = { .rip = AT_GUEST, .rflags = 2, .rsp = AT_STACK };
	struct kvm_sregs sregs;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data;
	sregs.tr = (struct kvm_segment){
		.base = AT_TSS, .limit = 0x67, .selector = 0x40, .type = 11, .present = 1
	};
	sregs.gdt = (struct kvm_dtable){ .base = AT_GDT, .limit = 0x4f };
	sregs.idt = (struct kvm_dtable){ .base = AT_IDT, .limit = 0xfff };
	sregs.cr0 = 0x80050033;
	sregs.cr3 = AT_PML4;
	sregs.cr4 = 0x620;  /* PAE, OSFXSR, OSXMMEXCPT */
	sregs.efer = 0xd01; /* LMA, LME, NXE, SCE */
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
		return -errno;
	return 0;
}

/* A handful of exits is all that an honest host makes; the bound keeps a strange one from looping
 * here. */
static int run_guest(int vcpu, struct kvm_run *run, bool *ret_standard)
{
	for (unsigned exits = 0; exits < 32; exits++) {
		if (ioctl(vcpu, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			return -errno;
		}
		if (run->exit_reason != KVM_EXIT_IO)
			return -EPROTO;
		switch (*((const char *)run + run->io.data_offset)) {
		case 'S':
			*ret_standard = true;
			return 0;
		case 'P':
			*ret_standard = false;
			return 0;
		}
	}
	return -EPROTO;
}

/* Put the TSC far ahead and see whether it went. */
static bool is_tsc_fixed(int vcpu)
{
	const uint64_t ahead = UINT64_C(1) << 44; /* hours */
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} tsc = { .head = { .nmsrs = 1 }, .entry = { .index = 0x10 } };
	uint64_t before;

	if (ioctl(vcpu, KVM_GET_MSRS, &tsc) != 1)
		return false;
	before = tsc.entry.data;
	tsc.entry.data += ahead;
	return ioctl(vcpu, KVM_SET_MSRS, &tsc) != 1 || ioctl(vcpu, KVM_GET_MSRS, &tsc) != 1 ||
	       tsc.entry.data - before < ahead / 2;
}

static void ask_vcpu(struct cs_host_kvm *kvm, int vcpu)
{
	const int khz = ioctl(vcpu, KVM_GET_TSC_KHZ, 0);

	kvm->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	kvm->tsc_fixed = is_tsc_fixed(vcpu);
	kvm->shown->nent = CS_CPUID_ENTRIES;
	if (ioctl(vcpu, KVM_GET_CPUID2, kvm->shown) < 0)
		kvm->shown->nent = 0;
}

static int probe_in(struct cs_host_kvm *kvm, int vm, uint8_t *mem)
{
	const struct kvm_userspace_memory_region slot = { .memory_size = PROBE_BYTES,
							  .userspace_addr = (uintptr_t)mem };
	cs_auto(cs_fd_closep) int vcpu = -1;
	struct kvm_run *run;
	int r;

	build_guest(mem);
	ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return -errno;
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		return -errno;
	if (ioctl(vcpu, KVM_SET_CPUID2, kvm->cpuid) < 0)
		return -errno;
	ask_vcpu(kvm, vcpu);
	r = set_registers(vcpu);
	if (r < 0)
		return r;
	run = mmap(NULL, kvm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		return -errno;
	r = run_guest(vcpu, run, &kvm->info.standard);
	munmap(run, kvm->run_bytes);
	return r;
}

int cs_kvm_probe(struct cs_host_kvm *kvm)
{
	cs_auto(cs_fd_closep) int vm = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	uint8_t *mem;
	int r;

	if (vm < 0)
		return -errno;
	mem = mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return -errno;
	r = probe_in(kvm, vm, mem);
	munmap(mem, PROBE_BYTES);
	return r;
}

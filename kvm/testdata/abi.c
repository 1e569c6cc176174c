/*
 * Prints the golden table of KVM's ABI: numbers, sizes and offsets as the
 * kernel's headers (Debian: linux-libc-dev) and the compiler see them.
 *
 *     cc -o abi abi.c && ./abi > abi.golden
 */
#include <linux/kvm.h>
#include <stddef.h>
#include <stdio.h>

#define NUM(x) printf("num %s %#llx\n", #x, (unsigned long long)(x))
#define SIZE(s) printf("size %s %zu\n", #s, sizeof(struct s))
#define OFF(s, f) printf("off %s.%s %zu\n", #s, #f, offsetof(struct s, f))

int main(void)
{
	NUM(KVM_API_VERSION);
	NUM(KVM_GET_API_VERSION);
	NUM(KVM_CREATE_VM);
	NUM(KVM_CHECK_EXTENSION);
	NUM(KVM_GET_VCPU_MMAP_SIZE);
	NUM(KVM_GET_SUPPORTED_CPUID);
	NUM(KVM_CREATE_VCPU);
	NUM(KVM_SET_USER_MEMORY_REGION);
	NUM(KVM_SET_TSS_ADDR);
	NUM(KVM_SET_IDENTITY_MAP_ADDR);
	NUM(KVM_CREATE_IRQCHIP);
	NUM(KVM_IRQFD);
	NUM(KVM_CREATE_PIT2);
	NUM(KVM_IOEVENTFD);
	NUM(KVM_SET_CLOCK);
	NUM(KVM_GET_CLOCK);
	NUM(KVM_RUN);
	NUM(KVM_GET_REGS);
	NUM(KVM_SET_REGS);
	NUM(KVM_GET_SREGS);
	NUM(KVM_SET_SREGS);
	NUM(KVM_GET_MSRS);
	NUM(KVM_SET_MSRS);
	NUM(KVM_SET_CPUID2);
	NUM(KVM_GET_MP_STATE);
	NUM(KVM_SET_MP_STATE);
	NUM(KVM_GET_STATS_FD);

	NUM(KVM_CAP_IRQCHIP);
	NUM(KVM_CAP_USER_MEMORY);
	NUM(KVM_CAP_SET_TSS_ADDR);
	NUM(KVM_CAP_EXT_CPUID);
	NUM(KVM_CAP_NR_VCPUS);
	NUM(KVM_CAP_MP_STATE);
	NUM(KVM_CAP_PIT2);
	NUM(KVM_CAP_IRQFD);
	NUM(KVM_CAP_IOEVENTFD);
	NUM(KVM_CAP_SET_IDENTITY_MAP_ADDR);
	NUM(KVM_CAP_ADJUST_CLOCK);
	NUM(KVM_CAP_MAX_VCPUS);
	NUM(KVM_CAP_TSC_DEADLINE_TIMER);
	NUM(KVM_CAP_READONLY_MEM);
	NUM(KVM_CAP_IMMEDIATE_EXIT);
	NUM(KVM_CAP_BINARY_STATS_FD);

	NUM(KVM_EXIT_UNKNOWN);
	NUM(KVM_EXIT_EXCEPTION);
	NUM(KVM_EXIT_IO);
	NUM(KVM_EXIT_HYPERCALL);
	NUM(KVM_EXIT_DEBUG);
	NUM(KVM_EXIT_HLT);
	NUM(KVM_EXIT_MMIO);
	NUM(KVM_EXIT_IRQ_WINDOW_OPEN);
	NUM(KVM_EXIT_SHUTDOWN);
	NUM(KVM_EXIT_FAIL_ENTRY);
	NUM(KVM_EXIT_INTR);
	NUM(KVM_EXIT_INTERNAL_ERROR);
	NUM(KVM_EXIT_SYSTEM_EVENT);
	NUM(KVM_EXIT_IO_OUT);
	NUM(KVM_PIT_SPEAKER_DUMMY);
	NUM(KVM_MP_STATE_RUNNABLE);
	NUM(KVM_MP_STATE_UNINITIALIZED);
	NUM(KVM_MP_STATE_HALTED);

	SIZE(kvm_userspace_memory_region);
	SIZE(kvm_regs);
	SIZE(kvm_segment);
	SIZE(kvm_dtable);
	SIZE(kvm_sregs);
	SIZE(kvm_msr_entry);
	SIZE(kvm_cpuid_entry2);
	SIZE(kvm_irqfd);
	SIZE(kvm_ioeventfd);
	SIZE(kvm_pit_config);
	SIZE(kvm_clock_data);
	SIZE(kvm_mp_state);
	SIZE(kvm_stats_header);
	SIZE(kvm_stats_desc);

	OFF(kvm_userspace_memory_region, guest_phys_addr);
	OFF(kvm_userspace_memory_region, memory_size);
	OFF(kvm_userspace_memory_region, userspace_addr);
	OFF(kvm_regs, rsi);
	OFF(kvm_regs, rsp);
	OFF(kvm_regs, r8);
	OFF(kvm_regs, rip);
	OFF(kvm_regs, rflags);
	OFF(kvm_segment, limit);
	OFF(kvm_segment, selector);
	OFF(kvm_segment, type);
	OFF(kvm_segment, present);
	OFF(kvm_segment, dpl);
	OFF(kvm_segment, db);
	OFF(kvm_segment, s);
	OFF(kvm_segment, l);
	OFF(kvm_segment, g);
	OFF(kvm_segment, avl);
	OFF(kvm_segment, unusable);
	OFF(kvm_dtable, limit);
	OFF(kvm_sregs, cs);
	OFF(kvm_sregs, ss);
	OFF(kvm_sregs, tr);
	OFF(kvm_sregs, ldt);
	OFF(kvm_sregs, gdt);
	OFF(kvm_sregs, idt);
	OFF(kvm_sregs, cr0);
	OFF(kvm_sregs, cr8);
	OFF(kvm_sregs, efer);
	OFF(kvm_sregs, apic_base);
	OFF(kvm_sregs, interrupt_bitmap);
	OFF(kvm_msr_entry, data);
	OFF(kvm_msrs, entries);
	OFF(kvm_cpuid_entry2, flags);
	OFF(kvm_cpuid_entry2, eax);
	OFF(kvm_cpuid_entry2, edx);
	OFF(kvm_cpuid2, entries);
	OFF(kvm_irqfd, gsi);
	OFF(kvm_irqfd, flags);
	OFF(kvm_irqfd, resamplefd);
	OFF(kvm_ioeventfd, addr);
	OFF(kvm_ioeventfd, len);
	OFF(kvm_ioeventfd, fd);
	OFF(kvm_ioeventfd, flags);
	OFF(kvm_clock_data, flags);
	OFF(kvm_clock_data, realtime);
	OFF(kvm_clock_data, host_tsc);
	OFF(kvm_stats_header, name_size);
	OFF(kvm_stats_header, num_desc);
	OFF(kvm_stats_header, desc_offset);
	OFF(kvm_stats_header, data_offset);
	OFF(kvm_stats_desc, offset);
	OFF(kvm_stats_desc, name);
	OFF(kvm_run, immediate_exit);
	OFF(kvm_run, exit_reason);
	OFF(kvm_run, hw);
	OFF(kvm_run, io.direction);
	OFF(kvm_run, io.size);
	OFF(kvm_run, io.port);
	OFF(kvm_run, io.count);
	OFF(kvm_run, io.data_offset);
	OFF(kvm_run, mmio.phys_addr);
	OFF(kvm_run, mmio.data);
	OFF(kvm_run, mmio.len);
	OFF(kvm_run, mmio.is_write);
	OFF(kvm_run, internal.suberror);
	OFF(kvm_run, fail_entry.hardware_entry_failure_reason);
	return 0;
}

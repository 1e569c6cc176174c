package kvm

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

// golden reads testdata/abi.golden, which testdata/abi.c printed.
func golden(t *testing.T) map[string]uint64 {
	t.Helper()
	f, err := os.Open("testdata/abi.golden")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := make(map[string]uint64)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		kind, rest, _ := strings.Cut(lines.Text(), " ")
		name, value, _ := strings.Cut(rest, " ")
		v, err := strconv.ParseUint(value, 0, 64)
		if err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		table[kind+" "+name] = v
	}
	return table
}

func TestABI(t *testing.T) {
	ours := map[string]uint64{
		"num KVM_API_VERSION":            apiVersion,
		"num KVM_GET_API_VERSION":        getAPIVersion,
		"num KVM_CREATE_VM":              createVM,
		"num KVM_CHECK_EXTENSION":        checkExtensionNr,
		"num KVM_GET_VCPU_MMAP_SIZE":     getVCPUMmapSize,
		"num KVM_GET_SUPPORTED_CPUID":    getSupportedCPUID,
		"num KVM_CREATE_VCPU":            createVCPU,
		"num KVM_SET_USER_MEMORY_REGION": setUserMemoryRegion,
		"num KVM_SET_TSS_ADDR":           setTSSAddr,
		"num KVM_SET_IDENTITY_MAP_ADDR":  setIdentityMapAddr,
		"num KVM_CREATE_IRQCHIP":         createIRQChip,
		"num KVM_IRQFD":                  irqfdNr,
		"num KVM_CREATE_PIT2":            createPIT2,
		"num KVM_IOEVENTFD":              ioeventfdNr,
		"num KVM_SET_CLOCK":              setClock,
		"num KVM_GET_CLOCK":              getClock,
		"num KVM_RUN":                    runNr,
		"num KVM_GET_REGS":               getRegs,
		"num KVM_SET_REGS":               setRegs,
		"num KVM_GET_SREGS":              getSregs,
		"num KVM_SET_SREGS":              setSregs,
		"num KVM_GET_MSRS":               getMSRs,
		"num KVM_SET_MSRS":               setMSRs,
		"num KVM_SET_CPUID2":             setCPUID2,
		"num KVM_GET_MP_STATE":           getMPState,
		"num KVM_SET_MP_STATE":           setMPState,
		"num KVM_GET_STATS_FD":           getStatsFD,
		"num KVM_EXIT_IO_OUT":            1,
		"num KVM_PIT_SPEAKER_DUMMY":      pitSpeakerDummy,
		"num KVM_MP_STATE_RUNNABLE":      uint64(MPRunnable),
		"num KVM_MP_STATE_UNINITIALIZED": uint64(MPUninitialized),
		"num KVM_MP_STATE_HALTED":        uint64(MPHalted),

		"size kvm_userspace_memory_region": uint64(unsafe.Sizeof(MemoryRegion{})),
		"size kvm_regs":                    uint64(unsafe.Sizeof(Regs{})),
		"size kvm_segment":                 uint64(unsafe.Sizeof(Segment{})),
		"size kvm_dtable":                  uint64(unsafe.Sizeof(Dtable{})),
		"size kvm_sregs":                   uint64(unsafe.Sizeof(Sregs{})),
		"size kvm_msr_entry":               uint64(unsafe.Sizeof(MSR{})),
		"size kvm_cpuid_entry2":            uint64(unsafe.Sizeof(CPUIDEntry{})),
		"size kvm_irqfd":                   uint64(unsafe.Sizeof(irqfd{})),
		"size kvm_ioeventfd":               uint64(unsafe.Sizeof(ioeventfd{})),
		"size kvm_pit_config":              uint64(unsafe.Sizeof(pitConfig{})),
		"size kvm_clock_data":              uint64(unsafe.Sizeof(ClockData{})),
		"size kvm_mp_state":                uint64(unsafe.Sizeof(MPState(0))),
		"size kvm_stats_header":            statsHeaderSize,
		"size kvm_stats_desc":              statsDescSize,

		"off kvm_userspace_memory_region.guest_phys_addr": uint64(unsafe.Offsetof(MemoryRegion{}.GuestPhysAddr)),
		"off kvm_userspace_memory_region.memory_size":     uint64(unsafe.Offsetof(MemoryRegion{}.MemorySize)),
		"off kvm_userspace_memory_region.userspace_addr":  uint64(unsafe.Offsetof(MemoryRegion{}.UserspaceAddr)),
		"off kvm_regs.rsi":                                     uint64(unsafe.Offsetof(Regs{}.RSI)),
		"off kvm_regs.rsp":                                     uint64(unsafe.Offsetof(Regs{}.RSP)),
		"off kvm_regs.r8":                                      uint64(unsafe.Offsetof(Regs{}.R8)),
		"off kvm_regs.rip":                                     uint64(unsafe.Offsetof(Regs{}.RIP)),
		"off kvm_regs.rflags":                                  uint64(unsafe.Offsetof(Regs{}.RFLAGS)),
		"off kvm_segment.limit":                                uint64(unsafe.Offsetof(Segment{}.Limit)),
		"off kvm_segment.selector":                             uint64(unsafe.Offsetof(Segment{}.Selector)),
		"off kvm_segment.type":                                 uint64(unsafe.Offsetof(Segment{}.Type)),
		"off kvm_segment.present":                              uint64(unsafe.Offsetof(Segment{}.Present)),
		"off kvm_segment.dpl":                                  uint64(unsafe.Offsetof(Segment{}.DPL)),
		"off kvm_segment.db":                                   uint64(unsafe.Offsetof(Segment{}.DB)),
		"off kvm_segment.s":                                    uint64(unsafe.Offsetof(Segment{}.S)),
		"off kvm_segment.l":                                    uint64(unsafe.Offsetof(Segment{}.L)),
		"off kvm_segment.g":                                    uint64(unsafe.Offsetof(Segment{}.G)),
		"off kvm_segment.avl":                                  uint64(unsafe.Offsetof(Segment{}.AVL)),
		"off kvm_segment.unusable":                             uint64(unsafe.Offsetof(Segment{}.Unusable)),
		"off kvm_dtable.limit":                                 uint64(unsafe.Offsetof(Dtable{}.Limit)),
		"off kvm_sregs.cs":                                     uint64(unsafe.Offsetof(Sregs{}.CS)),
		"off kvm_sregs.ss":                                     uint64(unsafe.Offsetof(Sregs{}.SS)),
		"off kvm_sregs.tr":                                     uint64(unsafe.Offsetof(Sregs{}.TR)),
		"off kvm_sregs.ldt":                                    uint64(unsafe.Offsetof(Sregs{}.LDT)),
		"off kvm_sregs.gdt":                                    uint64(unsafe.Offsetof(Sregs{}.GDT)),
		"off kvm_sregs.idt":                                    uint64(unsafe.Offsetof(Sregs{}.IDT)),
		"off kvm_sregs.cr0":                                    uint64(unsafe.Offsetof(Sregs{}.CR0)),
		"off kvm_sregs.cr8":                                    uint64(unsafe.Offsetof(Sregs{}.CR8)),
		"off kvm_sregs.efer":                                   uint64(unsafe.Offsetof(Sregs{}.EFER)),
		"off kvm_sregs.apic_base":                              uint64(unsafe.Offsetof(Sregs{}.APICBase)),
		"off kvm_sregs.interrupt_bitmap":                       uint64(unsafe.Offsetof(Sregs{}.InterruptBitmap)),
		"off kvm_msr_entry.data":                               uint64(unsafe.Offsetof(MSR{}.Value)),
		"off kvm_msrs.entries":                                 uint64(unsafe.Offsetof(msrList{}.entries)),
		"off kvm_cpuid_entry2.flags":                           uint64(unsafe.Offsetof(CPUIDEntry{}.Flags)),
		"off kvm_cpuid_entry2.eax":                             uint64(unsafe.Offsetof(CPUIDEntry{}.EAX)),
		"off kvm_cpuid_entry2.edx":                             uint64(unsafe.Offsetof(CPUIDEntry{}.EDX)),
		"off kvm_cpuid2.entries":                               uint64(unsafe.Offsetof(cpuidList{}.entries)),
		"off kvm_irqfd.gsi":                                    uint64(unsafe.Offsetof(irqfd{}.gsi)),
		"off kvm_irqfd.flags":                                  uint64(unsafe.Offsetof(irqfd{}.flags)),
		"off kvm_irqfd.resamplefd":                             uint64(unsafe.Offsetof(irqfd{}.resamplefd)),
		"off kvm_ioeventfd.addr":                               uint64(unsafe.Offsetof(ioeventfd{}.addr)),
		"off kvm_ioeventfd.len":                                uint64(unsafe.Offsetof(ioeventfd{}.len)),
		"off kvm_ioeventfd.fd":                                 uint64(unsafe.Offsetof(ioeventfd{}.fd)),
		"off kvm_ioeventfd.flags":                              uint64(unsafe.Offsetof(ioeventfd{}.flags)),
		"off kvm_clock_data.flags":                             uint64(unsafe.Offsetof(ClockData{}.Flags)),
		"off kvm_clock_data.realtime":                          uint64(unsafe.Offsetof(ClockData{}.Realtime)),
		"off kvm_clock_data.host_tsc":                          uint64(unsafe.Offsetof(ClockData{}.HostTSC)),
		"off kvm_stats_header.name_size":                       statsNameSize,
		"off kvm_stats_header.num_desc":                        statsNumDesc,
		"off kvm_stats_header.desc_offset":                     statsDescOffset,
		"off kvm_stats_header.data_offset":                     statsDataOffset,
		"off kvm_stats_desc.offset":                            statsDescValue,
		"off kvm_stats_desc.name":                              statsDescSize,
		"off kvm_run.immediate_exit":                           runImmediateExit,
		"off kvm_run.exit_reason":                              runExitReason,
		"off kvm_run.hw":                                       runUnion,
		"off kvm_run.io.direction":                             runUnion,
		"off kvm_run.io.size":                                  runUnion + 1,
		"off kvm_run.io.port":                                  runUnion + 2,
		"off kvm_run.io.count":                                 runUnion + 4,
		"off kvm_run.io.data_offset":                           runUnion + 8,
		"off kvm_run.mmio.phys_addr":                           runUnion,
		"off kvm_run.mmio.data":                                runUnion + 8,
		"off kvm_run.mmio.len":                                 runUnion + 16,
		"off kvm_run.mmio.is_write":                            runUnion + 20,
		"off kvm_run.internal.suberror":                        runUnion,
		"off kvm_run.fail_entry.hardware_entry_failure_reason": runUnion,
	}
	for c, name := range capNames {
		ours["num "+name] = uint64(c)
	}
	for r, name := range exitNames {
		ours["num "+name] = uint64(r)
	}
	theirs := golden(t)
	for name, v := range ours {
		if want, ok := theirs[name]; !ok || v != want {
			t.Errorf("%s: %#x here, %#x in the headers (listed: %v)", name, v, want, ok)
		}
	}
	for name := range theirs {
		if _, ok := ours[name]; !ok {
			t.Errorf("%s is in the golden table and checked by nobody", name)
		}
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[fmt.Stringer]string{
		CapIRQFD:       "KVM_CAP_IRQFD",
		Cap(9999):      "KVM_CAP_9999",
		ExitShutdown:   "KVM_EXIT_SHUTDOWN",
		ExitReason(77): "KVM_EXIT_77",
	} {
		if got.String() != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
}

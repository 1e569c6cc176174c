package kvm

// ioctl request numbers (linux/kvm.h). testdata/abi.c prints the golden ones.
const (
	getAPIVersion       = 0xae00
	createVM            = 0xae01
	checkExtensionNr    = 0xae03
	getVCPUMmapSize     = 0xae04
	getSupportedCPUID   = 0xc008ae05
	createVCPU          = 0xae41
	setUserMemoryRegion = 0x4020ae46
	setTSSAddr          = 0xae47
	setIdentityMapAddr  = 0x4008ae48
	createIRQChip       = 0xae60
	irqfdNr             = 0x4020ae76
	createPIT2          = 0x4040ae77
	ioeventfdNr         = 0x4040ae79
	setClock            = 0x4030ae7b
	getClock            = 0x8030ae7c
	runNr               = 0xae80
	getRegs             = 0x8090ae81
	setRegs             = 0x4090ae82
	getSregs            = 0x8138ae83
	setSregs            = 0x4138ae84
	getMSRs             = 0xc008ae88
	setMSRs             = 0x4008ae89
	setCPUID2           = 0x4008ae90
	getMPState          = 0x8004ae98
	setMPState          = 0x4004ae99
	getStatsFD          = 0xaece
)

// MemoryRegion is struct kvm_userspace_memory_region (api.rst 4.35): host
// memory that the guest sees as RAM.
type MemoryRegion struct {
	Slot          uint32
	Flags         uint32
	GuestPhysAddr uint64
	MemorySize    uint64 // bytes; 0 deletes the slot
	UserspaceAddr uint64 // host virtual address, page-aligned
}

// Regs is struct kvm_regs: the general-purpose registers.
type Regs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

// Segment is struct kvm_segment.
type Segment struct {
	Base                           uint64
	Limit                          uint32
	Selector                       uint16
	Type                           uint8
	Present, DPL, DB, S, L, G, AVL uint8
	Unusable                       uint8
	_                              uint8
}

// Dtable is struct kvm_dtable: the base and limit of the GDT or IDT.
type Dtable struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

// Sregs is struct kvm_sregs: the special registers.
type Sregs struct {
	CS, DS, ES, FS, GS, SS  Segment
	TR, LDT                 Segment
	GDT, IDT                Dtable
	CR0, CR2, CR3, CR4, CR8 uint64
	EFER                    uint64
	APICBase                uint64
	InterruptBitmap         [4]uint64
}

// MSR is struct kvm_msr_entry: one model-specific register.
type MSR struct {
	Index uint32
	_     uint32
	Value uint64
}

// CPUIDEntry is struct kvm_cpuid_entry2: the answer to one CPUID leaf.
type CPUIDEntry struct {
	Function, Index    uint32
	Flags              uint32
	EAX, EBX, ECX, EDX uint32
	_                  [3]uint32
}

// irqfd is struct kvm_irqfd (api.rst 4.75).
type irqfd struct {
	fd, gsi, flags, resamplefd uint32
	_                          [16]uint8
}

// ioeventfd is struct kvm_ioeventfd (api.rst 4.59).
type ioeventfd struct {
	_     uint64 // datamatch: unused, any value matches
	addr  uint64
	len   uint32
	fd    int32
	flags uint32
	_     [36]uint8
}

// pitConfig is struct kvm_pit_config (api.rst 4.71).
type pitConfig struct {
	flags uint32
	_     [15]uint32
}

// ClockData is struct kvm_clock_data (api.rst 4.29): kvm-clock, in ns.
type ClockData struct {
	Clock    uint64
	Flags    uint32
	_        uint32
	Realtime uint64
	HostTSC  uint64
	_        [4]uint32
}

// pitSpeakerDummy keeps accesses to port 0x61 in the kernel.
const pitSpeakerDummy = 1

// MPState is struct kvm_mp_state's value: what a vCPU is waiting for.
type MPState uint32

// MP states (api.rst 4.38).
const (
	MPRunnable      MPState = 0
	MPUninitialized MPState = 1
	MPHalted        MPState = 3
)

// Offsets in struct kvm_run (api.rst 5), the page shared with the kernel.
const (
	runImmediateExit = 1
	runExitReason    = 8
	runUnion         = 32
	runMinSize       = 4096
)

// ExitReason says why KVM_RUN returned (KVM_EXIT_… in linux/kvm.h).
type ExitReason uint32

// The exits that an x86 host of this program can see.
const (
	ExitUnknown       ExitReason = 0
	ExitException     ExitReason = 1
	ExitIO            ExitReason = 2
	ExitHypercall     ExitReason = 3
	ExitDebug         ExitReason = 4
	ExitHLT           ExitReason = 5
	ExitMMIO          ExitReason = 6
	ExitIRQWindowOpen ExitReason = 7
	ExitShutdown      ExitReason = 8
	ExitFailEntry     ExitReason = 9
	ExitIntr          ExitReason = 10
	ExitInternalError ExitReason = 17
	ExitSystemEvent   ExitReason = 24
)

package kvm

import "strconv"

// Cap is a KVM capability (KVM_CAP_… in linux/kvm.h).
type Cap int

// The capabilities that the program asks for, with the kernel's numbers.
const (
	CapIRQChip          Cap = 0
	CapUserMemory       Cap = 3
	CapSetTSSAddr       Cap = 4
	CapExtCPUID         Cap = 7
	CapNrVCPUs          Cap = 9
	CapMPState          Cap = 14
	CapPIT2             Cap = 33
	CapIRQFD            Cap = 32
	CapIOEventFD        Cap = 36
	CapSetIdentityMap   Cap = 37
	CapAdjustClock      Cap = 39
	CapMaxVCPUs         Cap = 66
	CapTSCDeadlineTimer Cap = 72
	CapReadonlyMem      Cap = 81
	CapImmediateExit    Cap = 136
	CapBinaryStatsFD    Cap = 203
)

var capNames = map[Cap]string{
	CapIRQChip:          "KVM_CAP_IRQCHIP",
	CapUserMemory:       "KVM_CAP_USER_MEMORY",
	CapSetTSSAddr:       "KVM_CAP_SET_TSS_ADDR",
	CapExtCPUID:         "KVM_CAP_EXT_CPUID",
	CapNrVCPUs:          "KVM_CAP_NR_VCPUS",
	CapMPState:          "KVM_CAP_MP_STATE",
	CapPIT2:             "KVM_CAP_PIT2",
	CapIRQFD:            "KVM_CAP_IRQFD",
	CapIOEventFD:        "KVM_CAP_IOEVENTFD",
	CapSetIdentityMap:   "KVM_CAP_SET_IDENTITY_MAP_ADDR",
	CapAdjustClock:      "KVM_CAP_ADJUST_CLOCK",
	CapMaxVCPUs:         "KVM_CAP_MAX_VCPUS",
	CapTSCDeadlineTimer: "KVM_CAP_TSC_DEADLINE_TIMER",
	CapReadonlyMem:      "KVM_CAP_READONLY_MEM",
	CapImmediateExit:    "KVM_CAP_IMMEDIATE_EXIT",
	CapBinaryStatsFD:    "KVM_CAP_BINARY_STATS_FD",
}

// String returns the kernel's name of the capability.
func (c Cap) String() string {
	if name, ok := capNames[c]; ok {
		return name
	}
	return "KVM_CAP_" + strconv.Itoa(int(c))
}

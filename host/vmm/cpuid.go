package vmm

import (
	"math/bits"

	"github.com/agentkernel/agentkernel/kvm"
)

// CPUID leaves that depend on the vCPU or that KVM leaves to its user (Intel
// SDM 2A, CPUID; AMD APM 3, appendix E).
const (
	leafMax        = 0x0
	leafFeatures   = 0x1
	leafCache      = 0x4
	leafTopology   = 0xb
	leafTopologyV2 = 0x1f
	leafKVM        = 0x4000_0001
	leafAMDSizes   = 0x8000_0008
	leafAMDTopo    = 0x8000_001e

	featureTSCDeadline = 1 << 24 // leaf 1, ECX
	featureHypervisor  = 1 << 31 // leaf 1, ECX
	featureHTT         = 1 << 28 // leaf 1, EDX

	featurePVEOI = 1 << 6 // leaf 0x40000001, EAX

	cpuidIndexed = 1 // KVM_CPUID_FLAG_SIGNIFCANT_INDEX

	topologySMT  = 1 << 8 // leaf 0xb, ECX: level type
	topologyCore = 2 << 8
)

// vcpuCPUID returns what CPUID answers on vCPU id of cpus: the host's leaves
// with a topology of one package, a core for every vCPU and a thread a core.
func vcpuCPUID(supported []kvm.CPUIDEntry, id, cpus int, tscDeadline, emulated bool) []kvm.CPUIDEntry {
	entries := make([]kvm.CPUIDEntry, 0, len(supported)+2)
	apic, n := uint32(id), uint32(cpus)
	var topology bool
	for _, e := range supported {
		switch e.Function {
		case leafMax:
			topology = e.EAX >= leafTopology
		case leafFeatures:
			e.EBX = e.EBX&0x0000ffff | n<<16 | apic<<24
			e.ECX |= featureHypervisor
			if tscDeadline {
				e.ECX |= featureTSCDeadline
			}
			if e.EDX &^= featureHTT; n > 1 {
				e.EDX |= featureHTT
			}
		case leafCache:
			e.EAX = e.EAX&0x00003fff | (n-1)<<26 // each cache private to its core
		case leafTopology, leafTopologyV2:
			continue
		case leafKVM:
			if emulated {
				e.EAX &^= featurePVEOI
			}
		case leafAMDSizes:
			e.ECX = e.ECX&^0xf0ff | n - 1 | coreBits(cpus)<<12
		case leafAMDTopo:
			e.EAX, e.EBX, e.ECX = apic, apic, 0
		}
		entries = append(entries, e)
	}
	if topology {
		entries = append(entries,
			kvm.CPUIDEntry{Function: leafTopology, Index: 0, Flags: cpuidIndexed, EAX: 0, EBX: 1, ECX: topologySMT, EDX: apic},
			kvm.CPUIDEntry{Function: leafTopology, Index: 1, Flags: cpuidIndexed, EAX: coreBits(cpus), EBX: n, ECX: 1 | topologyCore, EDX: apic},
		)
	}
	return entries
}

// coreBits is how many bits of an APIC id number the cores of the package.
func coreBits(cpus int) uint32 { return uint32(bits.Len(uint(cpus - 1))) }

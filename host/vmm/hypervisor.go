package vmm

import "encoding/binary"

// hypervisorLeaf returns what CPUID leaf 0x40000000 answers on this host: the
// name of the hypervisor under it, if there is one.
func hypervisorLeaf() (ebx, ecx, edx uint32)

// onEmulator reports whether this host's processor is QEMU's software one.
func onEmulator() bool {
	ebx, ecx, edx := hypervisorLeaf()
	name := binary.LittleEndian.AppendUint32(nil, ebx)
	name = binary.LittleEndian.AppendUint32(name, ecx)
	name = binary.LittleEndian.AppendUint32(name, edx)
	return string(name) == "TCGTCGTCGTCG"
}

package boot

import "encoding/binary"

// The Intel MultiProcessor Specification 1.4, chapter 4: how a kernel without
// ACPI learns of its CPUs and of how interrupt lines reach the I/O APIC.
const (
	mpSpecRevision = 4 // 1.4
	mpHeaderSize   = 44
	mpPointerSize  = 16

	mpProcessor = 0
	mpBus       = 1
	mpIOAPIC    = 2
	mpIOInt     = 3
	mpLocalInt  = 4

	mpIntVectored = 0
	mpIntNMI      = 1
	mpIntExtINT   = 3

	cpuEnabled = 1 << 0
	cpuBoot    = 1 << 1

	localAPICAddr = 0xfee00000
	ioAPICAddr    = 0xfec00000
	apicVersion   = 0x14
	ioAPICPins    = 24
	allAPICs      = 0xff
)

// mpTable returns the floating pointer structure and the configuration table
// behind it, for a machine of cpus processors, as they stand at ebdaAddr.
func mpTable(cpus int) []byte {
	le := binary.LittleEndian
	var body []byte
	entries := 0
	add := func(entry ...byte) {
		body = append(body, entry...)
		entries++
	}
	for id := range cpus {
		flags := byte(cpuEnabled)
		if id == 0 {
			flags |= cpuBoot
		}
		add(mpProcessor, byte(id), apicVersion, flags, 0, 6, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	add(append([]byte{mpBus, 0}, "ISA   "...)...)
	ioapic := byte(cpus)
	add(le.AppendUint32([]byte{mpIOAPIC, ioapic, apicVersion, cpuEnabled}, ioAPICAddr)...)
	for pin := range byte(ioAPICPins) {
		add(mpIOInt, mpIntVectored, 0, 0, 0, pin, ioapic, pin)
	}
	add(mpLocalInt, mpIntExtINT, 0, 0, 0, 0, 0, 0)
	add(mpLocalInt, mpIntNMI, 0, 0, 0, 0, allAPICs, 1)

	header := make([]byte, mpHeaderSize, mpHeaderSize+len(body))
	copy(header, "PCMP")
	le.PutUint16(header[4:], uint16(mpHeaderSize+len(body)))
	header[6] = mpSpecRevision
	copy(header[8:], "AGENTKRN")
	copy(header[16:], "MICROVM     ")
	le.PutUint16(header[34:], uint16(entries))
	le.PutUint32(header[36:], localAPICAddr)
	table := append(header, body...)
	table[7] = checksum(table)

	pointer := make([]byte, mpPointerSize, mpPointerSize+len(table))
	copy(pointer, "_MP_")
	le.PutUint32(pointer[4:], ebdaAddr+mpPointerSize)
	pointer[8] = 1 // its own length in 16-byte units
	pointer[9] = mpSpecRevision
	pointer[10] = checksum(pointer)
	return append(pointer, table...)
}

// checksum returns what makes the bytes of b, summed, 0 modulo 256.
func checksum(b []byte) byte {
	var sum byte
	for _, v := range b {
		sum += v
	}
	return -sum
}

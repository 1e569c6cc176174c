package kvm

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/kvm/guestmem"
)

// VM is one virtual machine.
type VM struct{ fd int }

// Close drops the program's reference to the VM. The kernel frees it when its
// vCPUs are closed too, and takes tens of milliseconds for it.
func (v *VM) Close() error { return unix.Close(v.fd) }

// CheckExtension is [System.CheckExtension] for this VM.
func (v *VM) CheckExtension(c Cap) (int, error) { return checkExtension(v.fd, c) }

// SetTSSAddr tells KVM where in guest-physical space it may put the three
// pages that Intel CPUs need for real mode (api.rst 4.36). They must be in no
// memory slot and below 4 GiB. AMD ignores it.
func (v *VM) SetTSSAddr(gpa uint32) error {
	if _, err := ioctl(v.fd, setTSSAddr, uintptr(gpa)); err != nil {
		return fmt.Errorf("KVM_SET_TSS_ADDR: %w", err)
	}
	return nil
}

// SetIdentityMapAddr is [VM.SetTSSAddr] for the one page of the identity map
// (api.rst 4.41). It must come before the first vCPU.
func (v *VM) SetIdentityMapAddr(gpa uint64) error {
	if _, err := ioctlPtr(v.fd, setIdentityMapAddr, &gpa); err != nil {
		return fmt.Errorf("KVM_SET_IDENTITY_MAP_ADDR: %w", err)
	}
	return nil
}

// CreateIRQChip makes the two PICs, the I/O APIC and, with every vCPU, a
// local APIC, all in the kernel (api.rst 4.24). It must come before the first
// vCPU.
func (v *VM) CreateIRQChip() error {
	if _, err := ioctl(v.fd, createIRQChip, 0); err != nil {
		return fmt.Errorf("KVM_CREATE_IRQCHIP: %w", err)
	}
	return nil
}

// CreatePIT2 makes an i8254 timer in the kernel, with its speaker port 0x61
// (api.rst 4.71). It needs the irqchip.
func (v *VM) CreatePIT2() error {
	config := pitConfig{flags: pitSpeakerDummy}
	if _, err := ioctlPtr(v.fd, createPIT2, &config); err != nil {
		return fmt.Errorf("KVM_CREATE_PIT2: %w", err)
	}
	return nil
}

// SetUserMemoryRegion adds, changes or deletes a memory slot (api.rst 4.35).
func (v *VM) SetUserMemoryRegion(r MemoryRegion) error {
	if _, err := ioctlPtr(v.fd, setUserMemoryRegion, &r); err != nil {
		return fmt.Errorf("KVM_SET_USER_MEMORY_REGION: slot %d, %d bytes at %#x: %w", r.Slot, r.MemorySize, r.GuestPhysAddr, err)
	}
	return nil
}

// SetMemory makes every region of m a slot, numbered from 0. The memory must
// stay mapped for as long as the VM lives.
func (v *VM) SetMemory(m *guestmem.Memory) error {
	regions := m.Regions()
	for i := range regions {
		err := v.SetUserMemoryRegion(MemoryRegion{
			Slot:          uint32(i),
			GuestPhysAddr: regions[i].Start,
			MemorySize:    regions[i].Size(),
			UserspaceAddr: uint64(regions[i].HostAddr()),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// IRQFD makes every signal of the eventfd raise the interrupt line gsi once
// (api.rst 4.75).
func (v *VM) IRQFD(eventfd int, gsi uint32) error {
	if _, err := ioctlPtr(v.fd, irqfdNr, &irqfd{fd: uint32(eventfd), gsi: gsi}); err != nil {
		return fmt.Errorf("KVM_IRQFD: line %d: %w", gsi, err)
	}
	return nil
}

// IOEventFD makes a guest's write to the MMIO address signal the eventfd in
// place of an exit (api.rst 4.59). length is that of the write in bytes; 0
// matches a write of any length and value, which KVM finds without decoding
// the instruction.
func (v *VM) IOEventFD(eventfd int, gpa uint64, length uint32) error {
	if _, err := ioctlPtr(v.fd, ioeventfdNr, &ioeventfd{addr: gpa, len: length, fd: int32(eventfd)}); err != nil {
		return fmt.Errorf("KVM_IOEVENTFD: address %#x: %w", gpa, err)
	}
	return nil
}

// Clock returns kvm-clock as the guest sees it (api.rst 4.29).
func (v *VM) Clock() (ClockData, error) {
	var c ClockData
	if _, err := ioctlPtr(v.fd, getClock, &c); err != nil {
		return c, fmt.Errorf("KVM_GET_CLOCK: %w", err)
	}
	return c, nil
}

// SetClock sets kvm-clock (api.rst 4.30).
func (v *VM) SetClock(c ClockData) error {
	if _, err := ioctlPtr(v.fd, setClock, &c); err != nil {
		return fmt.Errorf("KVM_SET_CLOCK: %w", err)
	}
	return nil
}

// CreateVCPU makes the vCPU whose APIC id is id (api.rst 4.7) and maps its
// run page of mmapSize bytes ([System.VCPUMmapSize]). It must be called by
// the thread that will run the vCPU.
func (v *VM) CreateVCPU(id, mmapSize int) (*VCPU, error) {
	fd, err := ioctl(v.fd, createVCPU, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("KVM_CREATE_VCPU %d: %w", id, err)
	}
	page, err := unix.Mmap(fd, 0, mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("map the run page of vCPU %d: %w", id, err)
	}
	return &VCPU{fd: fd, Page: RunPage{page: page}}, nil
}

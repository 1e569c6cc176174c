package kvm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// VCPU is one virtual CPU. Apart from [RunPage.SetImmediateExit], only the
// thread that made it may use it.
type VCPU struct {
	fd int

	// Page is what KVM_RUN answers with.
	Page RunPage
}

// Close unmaps the run page and drops the vCPU. Nobody may be in
// [VCPU.Run] or about to call [RunPage.SetImmediateExit].
func (c *VCPU) Close() error {
	if err := unix.Munmap(c.Page.page); err != nil {
		return err
	}
	c.Page.page = nil
	return unix.Close(c.fd)
}

// Regs returns the general-purpose registers (api.rst 4.11).
func (c *VCPU) Regs() (r Regs, err error) {
	if _, err = ioctlPtr(c.fd, getRegs, &r); err != nil {
		err = fmt.Errorf("KVM_GET_REGS: %w", err)
	}
	return r, err
}

// SetRegs sets the general-purpose registers (api.rst 4.12).
func (c *VCPU) SetRegs(r Regs) error {
	if _, err := ioctlPtr(c.fd, setRegs, &r); err != nil {
		return fmt.Errorf("KVM_SET_REGS: %w", err)
	}
	return nil
}

// Sregs returns the special registers (api.rst 4.13).
func (c *VCPU) Sregs() (s Sregs, err error) {
	if _, err = ioctlPtr(c.fd, getSregs, &s); err != nil {
		err = fmt.Errorf("KVM_GET_SREGS: %w", err)
	}
	return s, err
}

// SetSregs sets the special registers (api.rst 4.14).
func (c *VCPU) SetSregs(s Sregs) error {
	if _, err := ioctlPtr(c.fd, setSregs, &s); err != nil {
		return fmt.Errorf("KVM_SET_SREGS: %w", err)
	}
	return nil
}

// MPState returns what the vCPU is waiting for (api.rst 4.38).
func (c *VCPU) MPState() (s MPState, err error) {
	if _, err = ioctlPtr(c.fd, getMPState, &s); err != nil {
		err = fmt.Errorf("KVM_GET_MP_STATE: %w", err)
	}
	return s, err
}

// SetMPState sets what the vCPU is waiting for (api.rst 4.39).
func (c *VCPU) SetMPState(s MPState) error {
	if _, err := ioctlPtr(c.fd, setMPState, &s); err != nil {
		return fmt.Errorf("KVM_SET_MP_STATE: %w", err)
	}
	return nil
}

// maxMSRs bounds one call of [VCPU.MSRs] or [VCPU.SetMSRs].
const maxMSRs = 256

// msrList is struct kvm_msrs.
type msrList struct {
	n       uint32
	_       uint32
	entries [maxMSRs]MSR
}

// MSRs fills in the values of the registers whose indices are in msrs
// (api.rst 4.18); at most 256. The error names the first that KVM refuses.
func (c *VCPU) MSRs(msrs []MSR) error {
	list, err := c.transferMSRs("KVM_GET_MSRS", getMSRs, msrs)
	if err != nil {
		return err
	}
	copy(msrs, list.entries[:])
	return nil
}

// SetMSRs sets model-specific registers (api.rst 4.19); at most 256. The
// error names the first that KVM refuses.
func (c *VCPU) SetMSRs(msrs []MSR) error {
	_, err := c.transferMSRs("KVM_SET_MSRS", setMSRs, msrs)
	return err
}

func (c *VCPU) transferMSRs(name string, nr uintptr, msrs []MSR) (*msrList, error) {
	if len(msrs) > maxMSRs {
		return nil, fmt.Errorf("%s: %d registers, at most %d", name, len(msrs), maxMSRs)
	}
	list := &msrList{n: uint32(len(msrs))}
	copy(list.entries[:], msrs)
	done, err := ioctlPtr(c.fd, nr, list)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if done < len(msrs) {
		return nil, fmt.Errorf("%s: KVM refuses MSR %#x", name, msrs[done].Index)
	}
	return list, nil
}

// maxCPUIDEntries is KVM_MAX_CPUID_ENTRIES.
const maxCPUIDEntries = 256

// cpuidList is struct kvm_cpuid2.
type cpuidList struct {
	n       uint32
	_       uint32
	entries [maxCPUIDEntries]CPUIDEntry
}

// SupportedCPUID returns the CPUID leaves that the host and its KVM can give
// a guest (api.rst 4.46).
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	list := &cpuidList{n: maxCPUIDEntries}
	if _, err := ioctlPtr(s.fd, getSupportedCPUID, list); err != nil {
		return nil, fmt.Errorf("KVM_GET_SUPPORTED_CPUID: %w", err)
	}
	return list.entries[:min(list.n, maxCPUIDEntries)], nil
}

// SetCPUID sets what CPUID answers in the guest (api.rst 4.63). It must come
// before the first [VCPU.Run].
func (c *VCPU) SetCPUID(entries []CPUIDEntry) error {
	if len(entries) > maxCPUIDEntries {
		return fmt.Errorf("KVM_SET_CPUID2: %d entries, at most %d", len(entries), maxCPUIDEntries)
	}
	list := &cpuidList{n: uint32(len(entries))}
	copy(list.entries[:], entries)
	if _, err := ioctlPtr(c.fd, setCPUID2, list); err != nil {
		return fmt.Errorf("KVM_SET_CPUID2: %w", err)
	}
	return nil
}

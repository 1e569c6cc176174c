package vmm

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/host/boot"
	"github.com/agentkernel/agentkernel/kvm"
)

// vcpu is one vCPU and its thread.
//
// # The kick
//
// To get a vCPU out of the guest: the machine's stopping flag is set, then
// immediate_exit, then a signal goes to the thread. KVM_RUN then returns
// EINTR whether the thread was in the guest, on its way in, or handling an
// exit. The loop clears immediate_exit only after an EINTR, and looks at the
// flag again behind that, so that no kick is lost.
type vcpu struct {
	id int
	m  *machine

	mu   sync.Mutex // guards what follows against kick
	tid  int        // 0 when the thread is not there to be kicked
	vcpu *kvm.VCPU

	stats *kvm.StatsFile // set before the machine runs
}

// signalKick is the one signal that the Go runtime handles at any moment
// without consequence.
const signalKick = unix.SIGURG

// create makes the KVM vCPU; it must be called on the vCPU's thread.
func (c *vcpu) create(entry boot.Entry) error {
	v, err := c.m.vm.CreateVCPU(c.id, c.m.mmapSize)
	if err != nil {
		return err
	}
	if err := c.setUp(v, entry); err != nil {
		v.Close()
		return err
	}
	stats, err := v.OpenStats()
	if err != nil {
		return errors.Join(err, v.Close())
	}
	c.mu.Lock()
	c.vcpu, c.stats, c.tid = v, stats, unix.Gettid()
	c.mu.Unlock()
	return nil
}

func (c *vcpu) setUp(v *kvm.VCPU, entry boot.Entry) error {
	if err := v.SetCPUID(vcpuCPUID(c.m.cpuid, c.id, c.m.cpus, c.m.tscDeadline, c.m.emulated)); err != nil {
		return err
	}
	if err := setMSRs(v); err != nil {
		return err
	}
	if c.id > 0 {
		return nil // waits for the boot processor's start-up interrupt
	}
	return setEntry(v, entry)
}

// Model-specific registers that firmware sets on a PC (Intel SDM 4).
const (
	msrMiscEnable  = 0x1a0
	msrMTRRDefType = 0x2ff

	miscFastString = 1 << 0
	mtrrEnable     = 1 << 11
	mtrrWriteBack  = 6
)

func setMSRs(v *kvm.VCPU) error {
	misc := []kvm.MSR{{Index: msrMiscEnable}}
	if err := v.MSRs(misc); err != nil {
		return err
	}
	return v.SetMSRs([]kvm.MSR{
		{Index: msrMiscEnable, Value: misc[0].Value | miscFastString},
		{Index: msrMTRRDefType, Value: mtrrEnable | mtrrWriteBack},
	})
}

// Control register bits of 64-bit mode (Intel SDM 3A, 2.5 and 2.2.1).
const (
	cr0PE, cr0ET, cr0NE, cr0PG = 1 << 0, 1 << 4, 1 << 5, 1 << 31
	cr4PAE                     = 1 << 5
	eferLME, eferLMA           = 1 << 8, 1 << 10
	rflagsReserved             = 1 << 1
)

// setEntry puts the boot processor in the state that the boot protocol asks
// for.
func setEntry(v *kvm.VCPU, e boot.Entry) error {
	s, err := v.Sregs()
	if err != nil {
		return err
	}
	code := kvm.Segment{Limit: 0xffffffff, Selector: e.CodeSelector, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: e.DataSelector, Type: 3, Present: 1, DB: 1, S: 1, G: 1}
	s.CS, s.DS, s.ES, s.FS, s.GS, s.SS = code, data, data, data, data, data
	s.GDT = kvm.Dtable{Base: e.GDT, Limit: e.GDTLimit}
	s.IDT = kvm.Dtable{}
	s.CR0, s.CR3, s.CR4 = cr0PE|cr0ET|cr0NE|cr0PG, e.CR3, cr4PAE
	s.EFER = eferLME | eferLMA
	if err := v.SetSregs(s); err != nil {
		return err
	}
	return v.SetRegs(kvm.Regs{RIP: e.RIP, RSI: e.RSI, RSP: e.RSP, RBP: e.RSP, RFLAGS: rflagsReserved})
}

// thread is the vCPU's goroutine. It locks its thread and never unlocks it,
// so that the thread ends with it. It reports on created whether the vCPU
// could be made, and runs it once the machine has started.
func (c *vcpu) thread(entry boot.Entry, created chan<- error) {
	runtime.LockOSThread()
	err := c.create(entry)
	created <- err
	if err != nil {
		return
	}
	<-c.m.started
	defer c.m.running.Done()
	c.run()
	c.mu.Lock()
	c.tid = 0
	c.mu.Unlock()
}

func (c *vcpu) run() {
	v := c.vcpu
	for !c.m.stopping.Load() {
		err := v.Run()
		switch {
		case err == nil:
			if err := c.exit(v); err != nil {
				c.m.end(Reason{Kind: KindVMMError, Text: fmt.Sprintf("vCPU %d: %v", c.id, err)})
				return
			}
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			v.Page.SetImmediateExit(false)
		default:
			c.m.end(Reason{Kind: KindVMMError, Text: fmt.Sprintf("vCPU %d: KVM_RUN: %v", c.id, err)})
			return
		}
	}
}

// kick makes the vCPU leave the guest, once the machine's stopping flag is set.
func (c *vcpu) kick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tid == 0 {
		return
	}
	c.vcpu.Page.SetImmediateExit(true)
	_ = unix.Tgkill(unix.Getpid(), c.tid, signalKick) // the thread is there while tid is set
}

// exit does what the guest asked for when KVM_RUN returned. An error ends the
// machine.
func (c *vcpu) exit(v *kvm.VCPU) error {
	switch reason := v.Page.ExitReason(); reason {
	case kvm.ExitIO:
		io, err := v.Page.IO()
		if err != nil {
			return err
		}
		c.m.portIO(io)
	case kvm.ExitMMIO:
		access, err := v.Page.MMIO()
		if err != nil {
			return err
		}
		c.m.mmio(access)
	case kvm.ExitShutdown:
		c.m.guestReset("the guest's CPU shut down (triple fault)")
	case kvm.ExitFailEntry:
		return fmt.Errorf("the CPU refuses to enter the guest: hardware reason %#x", v.Page.EntryFailure())
	case kvm.ExitInternalError:
		return fmt.Errorf("KVM cannot go on: suberror %d at %s", v.Page.Suberror(), where(v))
	case kvm.ExitIntr:
	default:
		return fmt.Errorf("unexpected %v", reason)
	}
	return nil
}

// where says at which instruction the guest is, for an error message.
func where(v *kvm.VCPU) string {
	r, err := v.Regs()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("rip %#x rsp %#x", r.RIP, r.RSP)
}

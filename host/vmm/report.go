package vmm

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Kind says in one word why a machine ended.
type Kind string

// The kinds of end that a VMM records. A VMM that was killed records none.
const (
	KindPowerOff   Kind = "poweroff"    // the guest powered off in order
	KindStopped    Kind = "stopped"     // the host ended it
	KindPanic      Kind = "panic"       // the guest's kernel panicked
	KindGuestError Kind = "guest-error" // guest init could not set up, or the guest reset itself
	KindVMMError   Kind = "vmm-error"   // the VMM or KVM failed
)

// Reason is why a machine ended: a kind for programs, a sentence for people.
type Reason struct {
	Kind Kind
	Text string
}

// ParseReason reads the exit file's content. ok is false where it is empty:
// the VMM was killed, or still runs.
func ParseReason(content string) (r Reason, ok bool) {
	line, _, _ := strings.Cut(content, "\n")
	kind, text, ok := strings.Cut(line, "\t")
	if !ok {
		return Reason{}, false
	}
	return Reason{Kind: Kind(kind), Text: text}, true
}

// reporter tells the starter, once, whether the guest got ready, and whoever
// asks later, once, why the machine ended.
type reporter struct {
	exitFD int

	mu       sync.Mutex
	statusFD int // -1 once the starter has been told
}

func newReporter(statusFD, exitFD int) *reporter {
	return &reporter{statusFD: statusFD, exitFD: exitFD}
}

// ready tells the starter that the guest answers.
func (r *reporter) ready() { r.status("ready") }

// end records why the machine ended, and tells the starter if it still waits.
func (r *reporter) end(reason Reason) {
	text := oneLine(reason.Text)
	line := fmt.Sprintf("%s\t%s\n", reason.Kind, text)
	_, _ = unix.Pwrite(r.exitFD, []byte(line), 0) // nobody is left to tell of a failure
	r.status("error " + text)
}

func (r *reporter) status(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.statusFD < 0 {
		return
	}
	_, _ = unix.Write(r.statusFD, []byte(line+"\n")) // the starter may be gone
	unix.Close(r.statusFD)
	r.statusFD = -1
}

// oneLine makes text, part of which the guest may have chosen, fit one line of
// the exit file.
func oneLine(text string) string {
	const most = 2048
	if len(text) > most {
		text = text[:most]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, text)
}

package vmm

import (
	"io"
	"sync"
)

// I/O ports with something behind them. The PICs, the PIT and its speaker
// port are KVM's; every other port reads as all ones and swallows writes, like
// a bus without a device.
const (
	uartBase = 0x3f8 // COM1
	uartEnd  = uartBase + 7

	uartData         = 0 // transmit buffer; divisor latch while DLAB is set
	uartLineControl  = 3
	uartLineStatus   = 5
	uartDLAB         = 1 << 7
	uartTransmitIdle = 0x60 // THR and shift register empty

	i8042Data    = 0x60
	i8042Command = 0x64
	i8042Reset   = 0xfe // pulse the reset line
)

// ports is the user-space half of the machine's I/O port space: the transmit
// side of a serial port, on which the kernel's earlyprintk logs until the
// virtio console takes over, and the keyboard controller's reset line.
type ports struct {
	log   io.Writer
	reset func()

	mu   sync.Mutex
	dlab bool
	line []byte // a line of early output, until its end
}

const maxEarlyLine = 256

// write handles OUT of one value of any width; only the low byte matters here.
func (p *ports) write(port uint16, value byte) {
	switch {
	case port == i8042Command && value == i8042Reset:
		p.reset()
	case port >= uartBase && port <= uartEnd:
		p.writeUART(port-uartBase, value)
	}
}

func (p *ports) writeUART(register uint16, value byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case register == uartLineControl:
		p.dlab = value&uartDLAB != 0
	case register == uartData && !p.dlab && value != '\r':
		p.line = append(p.line, value)
		if value == '\n' || len(p.line) == maxEarlyLine {
			p.flushLocked()
		}
	}
}

// read answers IN of one value with its low byte.
func (p *ports) read(port uint16) byte {
	switch {
	case port == i8042Data || port == i8042Command:
		return 0 // nothing to read, ready for a command
	case port == uartBase+uartLineStatus:
		return uartTransmitIdle
	case port >= uartBase && port <= uartEnd:
		return 0
	}
	return 0xff
}

// flush writes out an unfinished line.
func (p *ports) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flushLocked()
}

func (p *ports) flushLocked() {
	if len(p.line) > 0 {
		_, _ = p.log.Write(p.line) // a consoleLog, which never fails
		p.line = p.line[:0]
	}
}

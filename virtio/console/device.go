package console

import "github.com/agentkernel/agentkernel/virtio"

// ID implements virtio.Device.
func (d *Device) ID() uint32 { return virtio.IDConsole }

// Features implements virtio.Device: none, §5.3.3.
func (d *Device) Features() uint64 { return 0 }

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize, queueSize} }

// ReadConfig implements virtio.Device. Every field of §5.3.4 depends on a
// feature that is not offered.
func (d *Device) ReadConfig(_ uint32, p []byte) { clear(p) }

// WriteConfig implements virtio.Device: emergency write is not offered.
func (d *Device) WriteConfig(uint32, []byte) {}

// Activate implements virtio.Device.
func (d *Device) Activate(a virtio.Activation) error {
	if len(a.Queues) != numQueues || a.Queues[transmitQueue] == nil {
		return errNoTransmit
	}
	// Kicks of the receive queue would be for nothing.
	if rx := a.Queues[receiveQueue]; rx != nil {
		if err := rx.DisableNotify(); err != nil {
			return err
		}
	}
	d.mu.Lock()
	d.port = port{Activation: a, tx: a.Queues[transmitQueue]}
	d.mu.Unlock()
	d.kick.Signal() // look at what came before
	return nil
}

// Notify implements virtio.Device.
func (d *Device) Notify(int) { d.kick.Signal() }

// Reset implements virtio.Device. Bytes that were copied from the guest are
// still written.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.port = port{}
}

package mmio

// Register offsets, VIRTIO 1.2 §4.2.2 table 4.1. R: readable, W: writable.
const (
	regMagicValue        = 0x000 // R
	regVersion           = 0x004 // R
	regDeviceID          = 0x008 // R
	regVendorID          = 0x00c // R
	regDeviceFeatures    = 0x010 // R
	regDeviceFeaturesSel = 0x014 // W
	regDriverFeatures    = 0x020 // W
	regDriverFeaturesSel = 0x024 // W
	regQueueSel          = 0x030 // W
	regQueueNumMax       = 0x034 // R
	regQueueNum          = 0x038 // W
	regQueueReady        = 0x044 // RW
	regQueueNotify       = QueueNotify
	regInterruptStatus   = 0x060 // R
	regInterruptACK      = 0x064 // W
	regStatus            = 0x070 // RW
	regQueueDescLow      = 0x080 // W
	regQueueDescHigh     = 0x084 // W
	regQueueDriverLow    = 0x090 // W
	regQueueDriverHigh   = 0x094 // W
	regQueueDeviceLow    = 0x0a0 // W
	regQueueDeviceHigh   = 0x0a4 // W
	regSHMLenLow         = 0x0b0 // R
	regSHMLenHigh        = 0x0b4 // R
	regSHMBaseLow        = 0x0b8 // R
	regSHMBaseHigh       = 0x0bc // R
	regConfigGeneration  = 0x0fc // R
	regConfig            = 0x100 // RW, to the end of the window
)

const (
	// QueueNotify is the offset of the register that an ioeventfd takes
	// over.
	QueueNotify = 0x050

	// Size is the length of a device's window in bytes.
	Size = 0x200

	magicValue = 0x74726976 // "virt"
	version    = 2          // not legacy
	vendorID   = 0x4b474120 // " AGK": §4.2.2 leaves the number to us

	configSize = Size - regConfig
)

// InterruptStatus bits, §4.2.2.
const (
	intUsedBuffer   = 1
	intConfigChange = 2
)

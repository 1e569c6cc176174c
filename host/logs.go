package host

import (
	"io"
	"os"

	"github.com/agentkernel/agentkernel/host/store"
)

func (h *Host) openLog(name string, open func(*store.Sandbox) (*os.File, error)) (io.ReadCloser, error) {
	b, err := h.store.Open(name)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	f, err := open(b)
	if os.IsNotExist(err) {
		s := Created
		return nil, &NotRunningError{Name: name, Status: s}
	}
	return f, err
}

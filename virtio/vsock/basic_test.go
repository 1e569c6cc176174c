package vsock

import (
	"testing"
)

func TestHostConnects(t *testing.T) {
	for _, eventIdx := range []bool{false, true} {
		r := newRig(t, rigOptions{eventIdx: eventIdx})
		s, c := r.connect()
		s.write([]byte("from guest"))
		expect(t, c, "from guest")
		if _, err := c.Write([]byte("from host")); err != nil {
			t.Fatal(err)
		}
		r.pump()
		if got := r.data(); string(got) != "from host" {
			t.Errorf("guest got %q", got)
		}
		s.op(opShutdown, shutdownBoth)
		r.want(opRST)
		expectEOF(t, c)
		r.quiet()
		r.checkEmpty()
	}
}

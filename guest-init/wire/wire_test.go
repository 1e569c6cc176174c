package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// Golden bytes: what an older or newer peer will send stays what it is.
func TestGolden(t *testing.T) {
	start, err := AppendStart(nil, &Start{Args: []string{"sh", "-c", ""}, Env: []string{"A=1"},
		Dir: "/w", User: "u:g", Stdin: true, Timeout: time.Second, KillAfter: 2})
	if err != nil {
		t.Fatal(err)
	}
	data := AppendHeader(nil, Header{Type: TypeData, Stream: Stderr, Length: 2})
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"start", start, "01000000 40000000 0100 0100 00ca9a3b00000000 0200000000000000 02000000 2f77 03000000 753a67" +
			"03000000 02000000 7368 02000000 2d63 00000000 01000000 03000000 413d31"},
		{"shutdown", AppendShutdown(nil, Shutdown{Grace: 3}), "02000000 0a000000 0100 0300000000000000"},
		{"data", append(data, "hi"...), "10020000 02000000 6869"},
		{"eof", AppendEOF(nil, Stdout, 258), "11010000 08000000 0201000000000000"},
		{"credit", AppendCredit(nil, Stdin, 65536), "12000000 04000000 00000100"},
		{"signal", AppendSignal(nil, 15), "13000000 01000000 0f"},
		{"started", AppendStarted(nil, 300), "20000000 04000000 2c010000"},
		{"exit", AppendExit(nil, Exit{Code: 37, OOM: true, TimedOut: true}), "21000000 03000000 25 00 03"},
		{"error", AppendError(nil, Failure{127, "no"}), "22000000 03000000 7f 6e6f"},
		{"closed", AppendEmpty(nil, TypeClosed), "23000000 00000000"},
		{"ok", AppendEmpty(nil, TypeOK), "24000000 00000000"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(tt.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(tt.got, want) {
			t.Errorf("%s: got %x, want %x", tt.name, tt.got, want)
		}
	}
}

func TestStartRoundTrip(t *testing.T) {
	for _, s := range []*Start{
		{},
		{Args: []string{""}},
		{Args: []string{"a", "b\x00\xff"}, Env: []string{"K=V\n", "="}, Dir: "/d", User: "0:0", Stdin: true,
			Timeout: 1<<63 - 1, KillAfter: 7},
	} {
		b, err := AppendStart(nil, s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeStart(b[HeaderSize:])
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("got %+v %v, want %+v", got, err, s)
		}
		for n := range len(b) - HeaderSize {
			if _, err := DecodeStart(b[HeaderSize : HeaderSize+n]); err == nil {
				t.Errorf("%d of %d bytes were taken", n, len(b)-HeaderSize)
			}
		}
	}
}

func TestStartTooLarge(t *testing.T) {
	_, err := AppendStart(nil, &Start{Args: []string{strings.Repeat("x", MaxStart)}})
	if !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestHeaderRules(t *testing.T) {
	ok := func(h Header, from Direction) bool {
		_, err := ParseHeader(AppendHeader(nil, h), from)
		if err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("%+v: %v", h, err)
		}
		return err == nil
	}
	for _, tt := range []struct {
		name string
		h    Header
		from Direction
		want bool
	}{
		{"stdin from the host", Header{TypeData, Stdin, 1}, FromHost, true},
		{"stdin from the guest", Header{TypeData, Stdin, 1}, FromGuest, false},
		{"stdout from the host", Header{TypeData, Stdout, 1}, FromHost, false},
		{"stderr from the guest", Header{TypeData, Stderr, MaxData}, FromGuest, true},
		{"empty data", Header{TypeData, Stdout, 0}, FromGuest, false},
		{"too much data", Header{TypeData, Stdout, MaxData + 1}, FromGuest, false},
		{"length -1", Header{TypeData, Stdout, 1<<32 - 1}, FromGuest, false},
		{"stream 3", Header{TypeData, 3, 1}, FromGuest, false},
		{"stream 255", Header{TypeData, 255, 1}, FromGuest, false},
		{"start from the guest", Header{TypeStart, 0, 40}, FromGuest, false},
		{"exit from the host", Header{TypeExit, 0, exitSize}, FromHost, false},
		{"exit with a stream", Header{TypeExit, 1, exitSize}, FromGuest, false},
		{"exit too short", Header{TypeExit, 0, exitSize - 1}, FromGuest, false},
		{"type 0", Header{0, 0, 0}, FromGuest, false},
		{"type 255", Header{255, 0, 0}, FromHost, false},
		{"start of the largest size", Header{TypeStart, 0, MaxStart}, FromHost, true},
		{"start of 4 GiB", Header{TypeStart, 0, 1<<32 - 1}, FromHost, false},
		{"error of the largest size", Header{TypeError, 0, 1 + MaxMessage}, FromGuest, true},
	} {
		if got := ok(tt.h, tt.from); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if _, err := ParseHeader([]byte{16, 1, 1, 0, 1, 0, 0, 0}, FromGuest); err == nil {
		t.Error("reserved bytes were taken")
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, p := range [][]byte{nil, {0}, {0, 65, 0}, {1, 1, 0}, {0, 0, 4}, {0, 0, 0, 0}} {
		if x, err := DecodeExit(p); err == nil {
			t.Errorf("exit %x: %+v", p, x)
		}
	}
	for _, p := range [][]byte{nil, {0, 'x'}, {124}, {128}} {
		if x, err := DecodeError(p); err == nil {
			t.Errorf("error %x: %+v", p, x)
		}
	}
	for _, p := range [][]byte{nil, {0, 0, 0, 0}, {1, 0, 4, 0}, {255, 255, 255, 255}} {
		if x, err := DecodeCredit(p); err == nil {
			t.Errorf("credit %x: %d", p, x)
		}
	}
	for _, p := range [][]byte{nil, {0}, {65}, {1, 1}} {
		if x, err := DecodeSignal(p); err == nil {
			t.Errorf("signal %x: %d", p, x)
		}
	}
	if _, err := DecodeShutdown(append([]byte{Version, 0}, bytes.Repeat([]byte{255}, 8)...)); err == nil {
		t.Error("a negative grace was taken")
	}
}

func TestErrorIsCut(t *testing.T) {
	b := AppendError(nil, Failure{CodeFailed, strings.Repeat("x", MaxMessage+1)})
	if f, err := DecodeError(b[HeaderSize:]); err != nil || len(f.Message) != MaxMessage {
		t.Errorf("%d %v", len(f.Message), err)
	}
}

// The reader finds the same frames however the bytes are cut.
func TestReader(t *testing.T) {
	var stream []byte
	stream = AppendStarted(stream, 7)
	big := bytes.Repeat([]byte("0123456789abcdef"), MaxData/16)
	stream = append(AppendHeader(stream, Header{Type: TypeData, Stream: Stdout, Length: MaxData}), big...)
	stream = AppendEOF(stream, Stdout, MaxData)
	stream = AppendExit(stream, Exit{Code: 1})
	for name, src := range map[string]io.Reader{
		"whole":  bytes.NewReader(stream),
		"halves": iotest.HalfReader(bytes.NewReader(stream)),
		"bytes":  iotest.OneByteReader(bytes.NewReader(stream)),
		"eof":    iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		r := NewReader(src, FromGuest)
		var types []Type
		for {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			types = append(types, h.Type)
			if h.Type != TypeData {
				_, err = r.Payload()
			} else {
				var got []byte
				if got, err = io.ReadAll(r); !bytes.Equal(got, big) {
					t.Errorf("%s: %d bytes of data", name, len(got))
				}
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if want := []Type{TypeStarted, TypeData, TypeEOF, TypeExit}; !reflect.DeepEqual(types, want) {
			t.Errorf("%s: %v", name, types)
		}
	}
}

// P1: a stream that is cut inside a frame is not one that has ended.
func TestReaderCut(t *testing.T) {
	stream := AppendExit(AppendEOF(nil, Stdout, 1), Exit{})
	for n := range len(stream) {
		r := NewReader(bytes.NewReader(stream[:n]), FromGuest)
		err := skipAll(r)
		if between := n == 0 || n == HeaderSize+8; (err == io.EOF) != between {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func skipAll(r *Reader) error {
	for {
		if _, err := r.Next(); err != nil {
			return err
		}
		if _, err := r.Payload(); err != nil {
			return err
		}
	}
}

// A long payload is skipped by Payload too, and an empty source is no progress.
func TestReaderLargePayload(t *testing.T) {
	s := &Start{Args: []string{strings.Repeat("x", 100<<10)}}
	b, _ := AppendStart(nil, s)
	r := NewReader(iotest.HalfReader(bytes.NewReader(b)), FromHost)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	p, err := r.Payload()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeStart(p); err != nil || !reflect.DeepEqual(got, s) {
		t.Error(err)
	}
}

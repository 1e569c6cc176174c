package wire

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// FuzzFromHost reads arbitrary bytes as the guest does.
func FuzzFromHost(f *testing.F) {
	start, _ := AppendStart(nil, &Start{Args: []string{"a", "b"}, Env: []string{"K=V"}, Dir: "/", User: "x", Stdin: true})
	f.Add(start)
	f.Add(append(start, AppendEOF(AppendSignal(AppendCredit(nil, Stdout, 9), 15), Stdin, 0)...))
	f.Add(AppendShutdown(nil, Shutdown{Grace: 1}))
	f.Fuzz(func(t *testing.T, data []byte) { readAll(t, data, FromHost) })
}

// FuzzFromGuest reads arbitrary bytes as the host's client does.
func FuzzFromGuest(f *testing.F) {
	b := AppendStarted(nil, 1)
	b = append(AppendHeader(b, Header{TypeData, Stdout, 2}), "ab"...)
	b = AppendEOF(AppendEOF(b, Stdout, 2), Stderr, 0)
	f.Add(AppendExit(b, Exit{Signal: 9, OOM: true}))
	f.Add(AppendError(nil, Failure{126, "no"}))
	f.Add(AppendEmpty(AppendCredit(AppendEmpty(nil, TypeClosed), Stdin, 1), TypeOK))
	f.Fuzz(func(t *testing.T, data []byte) { readAll(t, data, FromGuest) })
}

// readAll decodes frames until the first bad one. Whatever decodes must encode
// to the same bytes.
func readAll(t *testing.T, data []byte, from Direction) {
	r := NewReader(bytes.NewReader(data), from)
	at := 0
	for {
		h, err := r.Next()
		if err != nil {
			return
		}
		p, err := r.Payload()
		if err != nil {
			return
		}
		again, err := recode(h, p)
		if err != nil {
			return // the peer is hung up on
		}
		n := HeaderSize + int(h.Length)
		if !bytes.Equal(again, data[at:at+n]) {
			t.Fatalf("%x was decoded and encoded to %x", data[at:at+n], again)
		}
		at += n
	}
}

func recode(h Header, p []byte) ([]byte, error) {
	switch h.Type {
	case TypeStart:
		s, err := DecodeStart(p)
		if err != nil {
			return nil, err
		}
		b, err := AppendStart(nil, s)
		if err != nil {
			return nil, err
		}
		if again, err := DecodeStart(b[HeaderSize:]); err != nil || !reflect.DeepEqual(s, again) {
			return nil, errors.New("not stable")
		}
		return b, nil
	case TypeShutdown:
		s, err := DecodeShutdown(p)
		return AppendShutdown(nil, s), err
	case TypeEOF:
		n, err := DecodeEOF(p)
		return AppendEOF(nil, h.Stream, n), err
	case TypeCredit:
		n, err := DecodeCredit(p)
		return AppendCredit(nil, h.Stream, n), err
	case TypeSignal:
		n, err := DecodeSignal(p)
		return AppendSignal(nil, n), err
	case TypeStarted:
		n, err := DecodeStarted(p)
		return AppendStarted(nil, n), err
	case TypeExit:
		x, err := DecodeExit(p)
		return AppendExit(nil, x), err
	case TypeError:
		f, err := DecodeError(p)
		return AppendError(nil, f), err
	default:
		return append(AppendHeader(nil, h), p...), nil
	}
}

package power

import "testing"

func TestParseMount(t *testing.T) {
	for _, tt := range []struct {
		line, device, target string
		ok                   bool
	}{
		{"/dev/vda /data ext4 rw,relatime 0 0", "/dev/vda", "/data", true},
		{`/dev/vdb /with\040space\134 ext4 rw 0 0`, "/dev/vdb", `/with space\`, true},
		{"cut", "", "", false},
	} {
		device, target, ok := parseMount(tt.line)
		if device != tt.device || target != tt.target || ok != tt.ok {
			t.Errorf("%q: %q %q %v", tt.line, device, target, ok)
		}
	}
}

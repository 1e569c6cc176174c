package host

import (
	"fmt"
	"math/rand/v2"
)

// generateName returns a name that is easy to read out and to type, and that
// two sandboxes rarely share.
func generateName() string {
	adjectives := [...]string{
		"amber", "brave", "brisk", "calm", "clear", "deft", "eager", "fair", "fleet", "glad", "keen",
		"light", "lucid", "mild", "neat", "prime", "quick", "quiet", "sharp", "still", "swift", "warm",
	}
	nouns := [...]string{
		"badger", "birch", "brook", "cedar", "crane", "delta", "ember", "falcon", "fern", "finch", "harbor",
		"heron", "lynx", "maple", "meadow", "otter", "pine", "raven", "reef", "ridge", "tern", "willow",
	}
	return fmt.Sprintf("%s-%s-%04x", adjectives[rand.IntN(len(adjectives))], nouns[rand.IntN(len(nouns))], rand.IntN(1<<16))
}

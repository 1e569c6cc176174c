package store

import "context"

// ctxForTest is for code that also runs in a child process without a *testing.T.
var ctxForTest = context.Background()

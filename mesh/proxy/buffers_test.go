package proxy

import "testing"

func TestBuffersFitWhatComes(t *testing.T) {
	for name, c := range map[string]struct{ size, ahead, n, want int }{
		"a small message":          {smallBuffer, 100, 0, smallBuffer},
		"much has arrived":         {smallBuffer, 60 << 10, 0, largeBuffer},
		"the last read filled it":  {smallBuffer, 0, smallBuffer, largeBuffer},
		"in the midst of much":     {largeBuffer, 0, 32 << 10, largeBuffer},
		"the rest of much":         {largeBuffer, 100, 60 << 10, largeBuffer},
		"waiting for small pieces": {largeBuffer, 0, 100, smallBuffer},
		"small pieces, one by one": {smallBuffer, 0, 100, smallBuffer},
	} {
		t.Run(name, func(t *testing.T) {
			var buffers copyBuffers
			if got := buffers.fit(buffers.get(c.size), c.ahead, c.n); len(*got) != c.want {
				t.Errorf("a buffer of %d bytes", len(*got))
			}
		})
	}
}

package ratelimit

// Len returns how many keys are remembered.
func (l *Local) Len() int { return l.keys.len() }

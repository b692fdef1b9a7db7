// Package tcp relays raw connections: bytes, the end of either direction, and
// resets, between what it accepts and an upstream.
//
// Between two bare TCP connections the kernel moves the bytes (splice(2) on
// Linux): they never come into the process, and a relay of them holds no buffer.
// Everything else, such as TLS on one side or both, goes through one buffer of 32
// KiB for each direction. Nothing is read from one side that the other does not
// take, so that who reads slowly slows down who sends.
//
// A read is never given a deadline. Whether a connection is idle is looked up now
// and then, in what the kernel counts.
package tcp

package redis

import "strings"

// slot returns the hash slot of a key in a cluster: the CRC16 (XMODEM) of the
// key modulo 16384, or of its {tag}, the text between its first "{" and the
// next "}" if that is not empty (Redis Cluster specification, "hash tags").
func slot(key string) uint16 {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if tag := strings.IndexByte(key[open+1:], '}'); tag > 0 {
			key = key[open+1 : open+1+tag]
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % 16384
}

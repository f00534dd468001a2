package main

import (
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
)

// A memory value of /proc/PID/status, in bytes.
func (d daemon) resident(name string) float64 {
	for line := range strings.Lines(d.proc("status")) {
		text, found := strings.CutPrefix(line, name+":")
		if !found {
			continue
		}
		kilobytes, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 64)
		if err != nil {
			log.Fatalf("%s of process %d: %v", name, d.pid, err)
		}
		return kilobytes * 1024
	}
	log.Fatalf("process %d has no %s: is it gone?", d.pid, name)
	return 0
}

// The daemon's user and system time so far, in seconds.
func (d daemon) processor() float64 {
	stat := d.proc("stat")
	// The program's name may have spaces. The third field follows it; the times are the 14th and 15th.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		log.Fatalf("process %d: its stat has %d fields", d.pid, len(fields))
	}
	ticks := 0.0
	for _, field := range fields[11:13] {
		value, err := strconv.ParseFloat(field, 64)
		if err != nil {
			log.Fatalf("process %d: %v", d.pid, err)
		}
		ticks += value
	}
	// USER_HZ is 100 wherever Go runs on Linux.
	return ticks / 100
}

func (d daemon) proc(file string) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", d.pid, file))
	if err != nil {
		log.Fatal(err)
	}
	return string(text)
}
